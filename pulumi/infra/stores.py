"""What must outlive everything else: the key, the buckets, and the registry of images."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi_aws as aws
from infra.identity import Statement

import pulumi

PREFIX = "millrace"
"""Below it lies everything of a bucket; overlays/prod-s3 names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyArgs:
    what: str
    tags: Mapping[str, str]


class Key(pulumi.ComponentResource):
    """A key that turns every year. Its policy is AWS's default: roles of this account get rights by IAM."""

    arn: pulumi.Output[str]

    def __init__(self, name: str, args: KeyArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("millrace:infra:Key", name, None, opts)
        kept = pulumi.ResourceOptions(parent=self, protect=True)
        key = aws.kms.Key(
            name,
            description=args.what,
            enable_key_rotation=True,
            deletion_window_in_days=30,
            tags={**args.tags},
            opts=kept,
        )
        aws.kms.Alias(name, name=f"alias/{name}", target_key_id=key.key_id, opts=pulumi.ResourceOptions(parent=self))
        self.arn = key.arn
        self.register_outputs({"arn": self.arn})


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketArgs:
    bucket: str
    key_arn: pulumi.Input[str]
    kept_days: int
    """How long what was deleted or written over can be brought back. An erasure is complete only after it."""
    tags: Mapping[str, str]


class Bucket(pulumi.ComponentResource):
    arn: pulumi.Output[str]

    def __init__(self, name: str, args: BucketArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("millrace:infra:Bucket", name, None, opts)
        self._name, self._child = name, pulumi.ResourceOptions(parent=self)
        bucket = aws.s3.Bucket(
            name,
            bucket=args.bucket,
            force_destroy=False,
            tags={**args.tags},
            opts=pulumi.ResourceOptions(parent=self, protect=True),
        )
        self._close(bucket)
        self._keep(bucket, args)
        self.arn = bucket.arn
        self.register_outputs({"arn": self.arn})

    def _close(self, bucket: aws.s3.Bucket) -> None:
        """To everybody without a role, and to everybody without TLS."""
        block = aws.s3.BucketPublicAccessBlock(
            self._name,
            bucket=bucket.id,
            block_public_acls=True,
            block_public_policy=True,
            ignore_public_acls=True,
            restrict_public_buckets=True,
            opts=self._child,
        )
        aws.s3.BucketOwnershipControls(
            self._name, bucket=bucket.id, rule={"object_ownership": "BucketOwnerEnforced"}, opts=self._child
        )
        aws.s3.BucketPolicy(
            self._name,
            bucket=bucket.id,
            policy=bucket.arn.apply(_only_by_tls),
            opts=pulumi.ResourceOptions(parent=self, depends_on=[block]),
        )

    def _keep(self, bucket: aws.s3.Bucket, args: BucketArgs) -> None:
        """Encrypted, and what goes can be brought back for a while. Nothing current ever expires."""
        aws.s3.BucketServerSideEncryptionConfiguration(
            self._name,
            bucket=bucket.id,
            rules=[
                {
                    "apply_server_side_encryption_by_default": {
                        "sse_algorithm": "aws:kms",
                        "kms_master_key_id": args.key_arn,
                    },
                    "bucket_key_enabled": True,
                }
            ],
            opts=self._child,
        )
        versioning = aws.s3.BucketVersioning(
            self._name, bucket=bucket.id, versioning_configuration={"status": "Enabled"}, opts=self._child
        )
        aws.s3.BucketLifecycleConfiguration(
            self._name,
            bucket=bucket.id,
            rules=[
                {
                    "id": "what-went",
                    "status": "Enabled",
                    "filter": {"prefix": ""},
                    "noncurrent_version_expiration": {"noncurrent_days": args.kept_days},
                    "abort_incomplete_multipart_upload": {"days_after_initiation": 1},
                },
                {
                    "id": "markers-of-nothing",
                    "status": "Enabled",
                    "filter": {"prefix": ""},
                    "expiration": {"expired_object_delete_marker": True},
                },
            ],
            opts=pulumi.ResourceOptions(parent=self, depends_on=[versioning]),
        )


def _only_by_tls(arn: str) -> str:
    statement = {
        "Sid": "OnlyByTls",
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": [arn, f"{arn}/*"],
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def bucket_rights(buckets: Sequence[str], key_arn: str) -> list[Statement]:
    """What storage needs of its buckets and their key (docs/how-to/keep-tables-on-s3.md), and nothing else."""
    arns = [f"arn:aws:s3:::{bucket}" for bucket in buckets]
    return [
        {
            "Effect": "Allow",
            "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"],
            "Resource": [f"{arn}/{PREFIX}/*" for arn in arns],
        },
        {
            "Effect": "Allow",
            "Action": "s3:ListBucket",
            "Resource": arns,
            "Condition": {"StringLike": {"s3:prefix": [PREFIX, f"{PREFIX}/*"]}},
        },
        {"Effect": "Allow", "Action": ["kms:Decrypt", "kms:GenerateDataKey"], "Resource": key_arn},
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryArgs:
    repository: str
    key_arn: pulumi.Input[str]
    tags: Mapping[str, str]


class Registry(pulumi.ComponentResource):
    url: pulumi.Output[str]

    def __init__(self, name: str, args: RegistryArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("millrace:infra:Registry", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        repository = aws.ecr.Repository(
            name,
            name=args.repository,
            image_tag_mutability="IMMUTABLE",
            image_scanning_configuration={"scan_on_push": True},
            encryption_configurations=[{"encryption_type": "KMS", "kms_key": args.key_arn}],
            force_delete=False,
            tags={**args.tags},
            opts=child,
        )
        last = {"tagStatus": "untagged", "countType": "sinceImagePushed", "countUnit": "days", "countNumber": 14}
        rule = {
            "rulePriority": 1,
            "description": "what no release names",
            "selection": last,
            "action": {"type": "expire"},
        }
        aws.ecr.LifecyclePolicy(name, repository=repository.name, policy=json.dumps({"rules": [rule]}), opts=child)
        self.url = repository.repository_url
        self.register_outputs({"url": self.url})
