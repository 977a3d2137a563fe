"""S3 and DynamoDB, as moto plays them, with the SDK's own signer."""

from __future__ import annotations

from uuid import uuid4

import pytest

from leanbase.feature_flags import SourceError
from leanbase.feature_flags.sources.dynamodb import DynamoDbSource
from leanbase.feature_flags.sources.s3 import S3Source
from leanbase.testing import SourceContract
from leanbase.transports.deadline import Deadline
from tests.feature_flags.test_sources import bundle, load
from tests.support.moto_server import CREDENTIALS, MotoServer


@pytest.fixture
def aws(moto: MotoServer, monkeypatch: pytest.MonkeyPatch) -> MotoServer:
    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": moto.url}.items():
        monkeypatch.setenv(name, value)
    return moto


@pytest.mark.slow
class TestS3(SourceContract):
    @pytest.fixture(autouse=True)
    def bucket(self, aws: MotoServer) -> None:
        self.s3 = aws.client("s3")
        self.name = f"flags-{uuid4().hex}"
        where = {"LocationConstraint": "eu-west-1"}
        self.s3.create_bucket(Bucket=self.name, CreateBucketConfiguration=where)
        self.s3.put_object(Bucket=self.name, Key="a folder/flags.json", Body=bundle("beta"))

    def make_source(self) -> S3Source:
        return S3Source(f"//{self.name}/a folder/flags.json")

    def test_only_what_has_changed_is_read(self) -> None:
        source = self.make_source()
        found = load(source)
        assert load(source, found) is None
        self.s3.put_object(Bucket=self.name, Key="a folder/flags.json", Body=bundle("new"))
        assert list(load(source, found) or ()) == ["new"]

    def test_no_object(self) -> None:
        with pytest.raises(SourceError, match="does not exist"):
            load(S3Source(f"//{self.name}/other.json"))

    def test_no_definitions(self) -> None:
        self.s3.put_object(Bucket=self.name, Key="a folder/flags.json", Body=b"no")
        with pytest.raises(SourceError, match="no definitions"):
            load(self.make_source())

    def test_it_is_published(self) -> None:
        source = S3Source(f"//{self.name}/published.json")
        source.publish(bundle("a"), deadline=Deadline.after(5))
        assert list(load(source) or ()) == ["a"]
        source.publish(bundle("b"), deadline=Deadline.after(5))
        assert list(load(source) or ()) == ["b"]


@pytest.mark.slow
class TestDynamoDb(SourceContract):
    @pytest.fixture(autouse=True)
    def table(self, aws: MotoServer) -> None:
        self.name = f"flags-{uuid4().hex}"
        aws.client("dynamodb").create_table(
            TableName=self.name,
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        self.make_source().publish(bundle("beta", etag='"v1"'), deadline=Deadline.after(5))

    def make_source(self) -> DynamoDbSource:
        return DynamoDbSource(f"//{self.name}/shop")

    def test_large_definitions_are_compressed(self) -> None:
        source = self.make_source()
        many = [f"flag-{number}-{'x' * 100}" for number in range(2000)]
        source.publish(bundle(*many), deadline=Deadline.after(5))
        assert len(load(source) or ()) == 2000

    def test_no_item_and_no_table(self) -> None:
        with pytest.raises(SourceError, match="does not exist yet"):
            load(DynamoDbSource(f"//{self.name}/other"))
        with pytest.raises(SourceError, match="DynamoDB responded with 400 ResourceNotFoundException"):
            load(DynamoDbSource("//no-table/shop"))
