"""A file in a git repository, pushed to a remote. Never forced: the remote keeps every checkpoint that it was given.

Nothing is checked out. A bare repository of our own holds the newest commit of the branch, to which one is added.
"""

import re
import subprocess

from mcp_guard.outbound import Undelivered
from mcp_guard.witness.submission import Place, Submission, Taken

SECONDS = 60
OURS = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR", "GIT_PREFIX")
"""Variables that would lead git elsewhere."""


def send(place: Place, submission: Submission) -> Taken:
    """Raises: Undelivered, Contradicted."""
    repository = Repository(place)
    parent = repository.fetch()
    held = repository.read(parent) if parent else None
    evidence = submission.check(held)
    if held == submission.note:
        return Taken(evidence | {"commit": parent})  # pushed before, but not recorded
    commit = repository.commit(parent, submission.note, f"Checkpoint of {submission.head.size} receipts")
    repository.run("push", "--quiet", place.values["remote"], f"{commit}:{repository.branch}")
    return Taken(evidence | {"commit": commit})


class Repository:
    """The bare repository in the witness's own folder."""

    def __init__(self, place: Place) -> None:
        """Raises: Undelivered."""
        self.path, self.here = place.work / "repository.git", place.here
        self.remote, self.file = place.values["remote"], place.values["path"]
        self.branch = f"refs/heads/{place.values['branch']}"
        kept = {name: value for name, value in place.environment.items() if name not in OURS}
        self.environment = kept | {
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_INDEX_FILE": str(place.work / "index"),
            "GIT_AUTHOR_NAME": "mcp-guard",
            "GIT_AUTHOR_EMAIL": "mcp-guard@localhost",
            "GIT_COMMITTER_NAME": "mcp-guard",
            "GIT_COMMITTER_EMAIL": "mcp-guard@localhost",
        }
        self.environment.setdefault("GIT_SSH_COMMAND", "ssh -o BatchMode=yes")
        if not self.path.exists():
            self.run("init", "--quiet", "--bare", str(self.path), bare=False)

    def fetch(self) -> str:
        """The newest commit of the branch at the remote, brought here; empty if there is no such branch yet."""
        listed = self.run("ls-remote", self.remote, self.branch)
        if not listed:
            return ""
        self.run("fetch", "--quiet", "--no-tags", "--depth=1", self.remote, self.branch)
        return self.run("rev-parse", "FETCH_HEAD")

    def read(self, commit: str) -> str | None:
        """The file as it is in a commit."""
        if not self.run("ls-tree", commit, "--", self.file):
            return None
        return self.run("cat-file", "blob", f"{commit}:{self.file}", strip=False)

    def commit(self, parent: str, text: str, message: str) -> str:
        """A commit on top of `parent`, with the file changed and all others as they were."""
        blob = self.run("hash-object", "-w", "--stdin", input=text)
        self.run("read-tree", parent or "--empty")
        self.run("update-index", "--add", "--cacheinfo", f"100644,{blob},{self.file}")
        tree = self.run("write-tree")
        return self.run("commit-tree", tree, *(["-p", parent] if parent else []), "-m", message)

    def run(self, *words: str, input: str = "", strip: bool = True, bare: bool = True) -> str:
        """Raises: Undelivered, which tells neither the address nor what is in it."""
        argv = ["git", *([f"--git-dir={self.path}"] if bare else []), *words]
        try:
            done = subprocess.run(
                argv, input=input.encode(), capture_output=True, timeout=SECONDS, check=False, env=self.environment,
                cwd=self.here,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            raise Undelivered(f"`git {words[0]}` did not run, or not in {SECONDS} s") from None
        if done.returncode:
            raise Undelivered(f"`git {words[0]}` failed: {self._reason(done.stderr)}")
        text = done.stdout.decode(errors="replace")
        return text.split("\t")[0].strip() if strip else text

    def _reason(self, stderr: bytes) -> str:
        lines = stderr.decode(errors="replace").strip().splitlines()
        found = next((line for line in lines if line.startswith(("fatal:", "error:", " ! "))), "")
        host = re.match(r"(?:\w+://)?(?:[^@/]*@)?([^:/]+)", self.remote)
        hidden = [re.escape(self.remote), *([rf"\b{re.escape(host[1])}\b"] if host else [])]
        told = re.sub("|".join([r"'[^']*'", r"\S+://\S+", *hidden]), "the remote", found)
        return told.strip() or "it said nothing"
