"""Before a job of several instances in a VPC: may they speak to each other? Else they wait in vain."""

import argparse
import sys
from typing import Any

from launching.calls import Call, LaunchError


def security_groups(options: argparse.Namespace) -> list[Call]:
    """The look at the groups, where the answer matters."""
    if options.instance_count == 1 or not options.security_group:
        return []
    return [Call("ec2", "describe_security_groups", {"GroupIds": options.security_group})]


def check_security_groups(answer: dict[str, Any], groups: list[str]) -> None:
    """Training together needs one group whose rules name itself inwards; EFA, outwards too.

    Raises LaunchError.
    """
    open_inwards = [group for group in answer["SecurityGroups"] if _names_itself(group, "IpPermissions")]
    if any(_names_itself(group, "IpPermissionsEgress") for group in open_inwards):
        return
    if any(_is_open(group["IpPermissionsEgress"]) for group in open_inwards):
        print(
            "EFA also needs a rule outwards, for all traffic, to the security group itself", file=sys.stderr
        )
        return
    raise LaunchError(
        f"none of {', '.join(groups)} lets its members speak to each other: one must have, in and out, "
        "a rule for all traffic (protocol -1) whose source and destination is the group itself"
    )


def _names_itself(group: dict[str, Any], side: str) -> bool:
    return any(
        rule["IpProtocol"] == "-1"
        and any(pair.get("GroupId") == group["GroupId"] for pair in rule["UserIdGroupPairs"])
        for rule in group[side]
    )


def _is_open(rules: list[dict[str, Any]]) -> bool:
    return any(
        rule["IpProtocol"] == "-1" and any(each["CidrIp"] == "0.0.0.0/0" for each in rule["IpRanges"])
        for rule in rules
    )
