"""Python runs this as it starts, where the folder is on its path: the process ends as soon as it asks for a
name of a network, or for a connection to another machine. Python processes that it starts inherit the path.
"""

import os
import sys

CODE = 99
_HERE = ("localhost", "127.0.0.1", "::1", "", None)


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    if event == "socket.getaddrinfo":
        asked = arguments[0]
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        asked = arguments[1][0]
    else:
        return
    if (asked.decode() if isinstance(asked, bytes) else asked) not in _HERE:
        os.write(2, f"a network was asked for {asked!r}\n".encode())
        os._exit(CODE)  # No library can take this for an error that it may go on from.


sys.addaudithook(_refuse)
