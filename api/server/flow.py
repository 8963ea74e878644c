"""Flow control of the answer only."""

from uvicorn.protocols.http.flow_control import FlowControl


class WriteFlow(FlowControl):
    """uvicorn's flow control without its control of reading: the connection itself decides when to read."""

    def pause_reading(self) -> None:
        """Do nothing."""

    def resume_reading(self) -> None:
        """Do nothing."""
