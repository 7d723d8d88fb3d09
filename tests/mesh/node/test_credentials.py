"""Credentials files: private, TOML, and nothing in them that nobody asked for."""

import pytest

from mycomesh.mesh.mailbox.storages import Credentials
from mycomesh.mesh.node.credentials import mailbox_credentials, read_secrets
from mycomesh.mesh.node.errors import ConfigError


def private(path, text):
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_known_texts_are_read_and_shown_nowhere(tmp_path):
    path = private(tmp_path / "s3.toml", 'access_key_id = "fleet"\nsecret_access_key = "s3cret"\nca = "ca.pem"\n')
    found = mailbox_credentials(path)
    assert found == Credentials(access_key_id="fleet", secret_access_key="s3cret", ca=str(tmp_path / "ca.pem"))
    assert "s3cret" not in repr(found)
    assert mailbox_credentials(None) == Credentials()


@pytest.mark.parametrize(
    ("text", "mode", "why"),
    [
        ('user = "x"', 0o644, "open to other users"),
        ("user = 5", 0o600, "each a text such as user"),
        ('pasword = "x"', 0o600, "may have user, password"),
        ("", 0o600, "may have user, password"),
        ("not toml", 0o600, "is not valid TOML"),
    ],
)
def test_a_wrong_file_is_one_clear_line(tmp_path, text, mode, why):
    path = private(tmp_path / "nats.toml", text)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=why):
        read_secrets(path, ("user", "password"))


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="there is no credentials file"):
        read_secrets(tmp_path / "absent", ("user",))
