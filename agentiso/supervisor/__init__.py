"""The supervisor as a process: its sockets, who may call, what is logged."""
