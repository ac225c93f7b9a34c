#!/usr/bin/env python3
"""Fetches every message of every folder over IMAP, and compares each with the Maildir it came from.

usage: fetch_all.py PORT USER MAILDIR

Prints how many folders and messages were the same; exits with 1 and says what differs if any does.
IMAP sends lines that end in CR LF, whatever they end in on disk.
"""
import collections
import hashlib
import imaplib
import re
import sys
from pathlib import Path


def digest(data):
    return hashlib.sha256(re.sub(rb"(?<!\r)\n", b"\r\n", data)).hexdigest()


def on_disk(folder):
    messages = [path for side in ("cur", "new") for path in (folder / side).iterdir()]
    return collections.Counter(digest(path.read_bytes()) for path in messages)


def over_imap(client, name):
    status, count = client.select(f'"{name}"', readonly=True)
    assert status == "OK", (name, count)
    if int(count[0]) == 0:
        return collections.Counter()
    status, answer = client.fetch("1:*", "(BODY.PEEK[])")
    assert status == "OK", (name, answer)
    return collections.Counter(digest(part[1]) for part in answer if isinstance(part, tuple))


def main():
    port, user, maildir = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    client = imaplib.IMAP4("127.0.0.1", port, timeout=60)
    client.login(user, "secret")
    status, listed = client.list()
    assert status == "OK", listed
    names = {re.search(rb'"?([^" ]+)"?$', line).group(1).decode() for line in listed}
    folders = {"INBOX": maildir}
    folders.update({path.name[1:]: path for path in maildir.glob(".*") if (path / "cur").is_dir()})
    if names != set(folders):
        sys.exit(f"folders listed: {sorted(names)}, on disk: {sorted(folders)}")
    total = 0
    for name, folder in sorted(folders.items()):
        expected, found = on_disk(folder), over_imap(client, name)
        if expected != found:
            sys.exit(f"{name}: {sum((expected - found).values())} messages lack, {sum((found - expected).values())} differ")
        total += sum(found.values())
    client.logout()
    print(f"{len(folders)} folders, {total} messages")


main()
