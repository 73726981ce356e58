"""A reporter that keeps what is said."""

from edgedistill.runtime.progress import Reporter


class Listener(Reporter):
    """Keeps the lines of information in `said`."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.said: list[str] = []

    def info(self, text: str) -> None:
        self.said.append(text)
