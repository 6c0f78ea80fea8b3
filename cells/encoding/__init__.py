"""The stored form of events and states, their hashes and the keyed seals over them."""
