"""The operations of one step: walks the jaxpr of loss and gradient, and writes each of them down."""
