"""What a session did, in numbers."""


class SessionMetrics:
    """Counters and times of one session; thread-safe."""

    def snapshot(self) -> dict[str, float]:
        """All numbers by name."""
        raise NotImplementedError
