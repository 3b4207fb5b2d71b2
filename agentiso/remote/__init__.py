"""The library's own wire to a running supervisor: the messages of `actors.messages`, carried over a Unix socket.

`wire` turns frames into bytes, `frames` says which frames there are, `carry` turns messages, results and errors into
what a frame can hold, `link` moves frames over a stream, `client` has references to actors of the other side, and
`server` serves them.
"""
