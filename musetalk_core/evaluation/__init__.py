"""Measures of lip-synced video that need no weights beyond the embedded face networks."""
