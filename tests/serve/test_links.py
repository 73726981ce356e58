"""Which names in a request are those of this machine."""

import socket

import pytest

from edgedistill.serve.links import is_this_machine


@pytest.mark.parametrize(
    ("host", "answered"),
    [("localhost:1", True), ("192.0.2.7:80", True), ("[2001:db8::1]:443", True), (socket.gethostname(), True),
     ("evil.example", False), ("localhost.evil.example", False), ("[", False), ("", False)],
)  # fmt: skip
def test_only_names_of_this_machine_and_addresses_are_answered(host: str, *, answered: bool) -> None:
    assert is_this_machine(host, {"localhost"}) is answered
