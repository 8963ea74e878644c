"""A network that pretends: it binds every port on any host, ACTIVE at once, and moves no packets."""

from typing import Any

from neutron_lib import constants
from neutron_lib.api.definitions import portbindings
from neutron_lib.plugins.ml2 import api


class BindAllDriver(api.MechanismDriver):
    """The network."""

    @property
    def connectivity(self) -> str:
        """The layer that ports are connected on."""
        return str(portbindings.CONNECTIVITY_L2)

    def initialize(self) -> None:
        """Nothing has to be made ready."""

    def bind_port(self, context: Any) -> None:
        """Bind a port."""
        details = {portbindings.CAP_PORT_FILTER: True, portbindings.VIF_DETAILS_CONNECTIVITY: self.connectivity}
        for segment in context.segments_to_bind:
            context.set_binding(
                segment[api.ID], portbindings.VIF_TYPE_OVS, details, status=constants.PORT_STATUS_ACTIVE
            )
            return
