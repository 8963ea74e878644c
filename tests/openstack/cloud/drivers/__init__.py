"""The parts that pretend: copied into the test cloud's own environment, where Nova, Neutron and Cinder load them."""
