"""TLS for servers under test: a certificate of localhost that nobody trusts unless a test says so. No pytest here."""

import ssl
import tempfile
from pathlib import Path
from typing import Final

CERTIFICATE: Final = """\
-----BEGIN CERTIFICATE-----
MIIBZzCCAQ2gAwIBAgIBATAKBggqhkjOPQQDAjAUMRIwEAYDVQQDDAlsb2NhbGhv
c3QwIBcNMjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBaMBQxEjAQBgNVBAMM
CWxvY2FsaG9zdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABCvMiQiNLtFTXpnd
XI1YNzp6L4Juixk95+EDFg1XOuA+8UVaCWIuRFgjceQwjWUbupWFZYSaECEQAqBX
jFWay+ijTjBMMBoGA1UdEQQTMBGCCWxvY2FsaG9zdIcEfwAAATAPBgNVHRMBAf8E
BTADAQH/MB0GA1UdDgQWBBRQtUvwN0GiNJkUVqnMMfegOWSCUDAKBggqhkjOPQQD
AgNIADBFAiB8CqRvN6SRK0vO30yhHRrUheEtlPVEsQWVS01AlpIg7AIhAMRCmgJM
aqq0PRE9kJGlGPCAfQOz97ni1m/XIgEqyoVH
-----END CERTIFICATE-----
"""
_KEY: Final = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgqtRsCA/sNrYtRgK3
6hxmzkCO4FvqfmMb66Sjt82KJaqhRANCAAQrzIkIjS7RU16Z3VyNWDc6ei+CbosZ
PefhAxYNVzrgPvFFWgliLkRYI3HkMI1lG7qVhWWEmhAhEAKgV4xVmsvo
-----END PRIVATE KEY-----
"""


def server_tls() -> ssl.SSLContext:
    """What a server on localhost speaks."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as directory:
        certificate, key = Path(directory, "certificate"), Path(directory, "key")
        certificate.write_text(CERTIFICATE)
        key.write_text(_KEY)
        context.load_cert_chain(certificate, key)
    return context
