"""A talking portrait: a still picture and speech with known phonemes become video with a known lip gap.

Used by the scripts only; nothing of musetalk_core or the nodes imports it.
"""
