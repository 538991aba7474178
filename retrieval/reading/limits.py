"""How much one file may cost. Every default of reading is written here, once."""

from dataclasses import asdict, dataclass

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """What a zip-packed document may unpack to, judged by its directory before anything is unpacked."""

    total_mb: int
    ratio: int
    entries: int
    # The ratio counts only from this unpacked size on: small XML packs well by nature.
    ratio_from_mb: int = 10


@dataclass(frozen=True, slots=True)
class ReadingLimits:
    """Limits of the process that parses one file."""

    memory_mb: int = 1_536  # address space of the process, its libraries included (about 30 to 200 MB)
    cpu_seconds: int = 60  # per file
    wall_seconds: float = 90.0  # per file, kept by the parent, which kills
    max_file_mb: int = 100
    max_text_mb: int = 400  # of extracted text, as UTF-8
    archive_mb: int = 200  # what a docx, pptx, xlsx or epub may unpack to
    archive_ratio: int = 100  # unpacked to packed size
    archive_entries: int = 2_000
    files_per_process: int = 500  # then a fresh process takes over
    grown_mb: int = 300  # or as soon as one holds this much memory after a file

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value <= 0:
                raise ValueError(f"{name} must be more than 0, not {value}")

    @property
    def archive(self) -> ArchiveLimits:
        return ArchiveLimits(self.archive_mb, self.archive_ratio, self.archive_entries)
