"""A parser's no: the file cannot become a document, with the reason as a stable word and in plain words."""


class Refusal(Exception):  # noqa: N818 - it is an answer, and becomes a ReadingError in the parent process
    """`reason` as in ReadingError.reason; `message` completes the sentence "FILE …" and says what to do."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
