"""Networks by name: what the names mean (without torch) and how the networks are built (with it).

`bench.networks.names` parses and checks names and costs no torch; `bench.networks.build` builds. Nothing is
imported here, so that reading verbs stay cheap.
"""
