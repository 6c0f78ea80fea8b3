"""Which cell a call is for, and passing it on: by the proxy of the router, and by the smart client."""
