"""How much may be added on the chat page. Every default is written here, once; needs only the standard library."""

from dataclasses import asdict, dataclass

from retrieval.errors import UsageError


@dataclass(frozen=True)
class UploadLimits:
    """What may be added on the page."""

    file_mb: int = 100
    total_mb: int = 4_096
    """All files that were added and are kept, of all collections together."""
    free_mb: int = 512
    """Room on the disk that is left alone."""
    files: int = 2_000
    """Files of one job."""
    jobs: int = 8
    """Jobs that are not finished, at once."""
    stalled_seconds: float = 60.0
    """A file of which nothing arrives for so long is given up."""
    idle_seconds: float = 3_600.0
    """A job that is not started for so long is given up."""
    busy_seconds: float = 5.0
    """How long a job waits for a collection that another program is changing."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 0 or (value == 0 and name not in ("busy_seconds", "free_mb")):
                raise UsageError(f"{name} must be more than 0, not {value}")
