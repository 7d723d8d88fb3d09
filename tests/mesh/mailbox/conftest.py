"""One S3 server for all tests of a worker: it takes seconds to start."""

import pytest

from tests.mesh.mailbox.servers import S3, UNCLOSED


@pytest.fixture(scope="session")
def s3(tmp_path_factory):
    server = S3(tmp_path_factory.mktemp("s3"))
    yield server
    server.close()


def pytest_collection_modifyitems(items):
    """Leave out the sockets to servers that die: the libraries leave them to the garbage collector."""
    for item in items:
        if item.nodeid.startswith("tests/mesh/mailbox/"):
            item.add_marker(pytest.mark.filterwarnings(UNCLOSED))
