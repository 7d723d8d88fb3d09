"""One S3 server for all tests of a worker: it takes seconds to start."""

import pytest

from tests.mesh.mailbox.servers import S3


@pytest.fixture(scope="session")
def s3(tmp_path_factory):
    server = S3(tmp_path_factory.mktemp("s3"))
    yield server
    server.close()
