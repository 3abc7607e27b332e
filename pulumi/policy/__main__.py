"""`pulumi up --policy-pack policy`: every rule is mandatory."""

from pulumi_policy import PolicyPack
from rules import POLICIES

PolicyPack("millrace", POLICIES)
