"""Flow control of the answer only."""

from uvicorn.protocols.http.flow_control import FlowControl


class WriteFlow(FlowControl):
    """uvicorn's flow control without that of reading, which the connection decides, and not the application."""

    def pause_reading(self) -> None:
        """Do nothing."""

    def resume_reading(self) -> None:
        """Do nothing."""
