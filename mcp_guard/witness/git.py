"""A file in a git repository that is pushed to a remote. Pushes are never forced, so the remote keeps every checkpoint.

Nothing is checked out. A bare repository in the witness's folder holds the newest commit of the branch, and each
submission adds one commit to it.
"""

import re
import subprocess

from mcp_guard.outbound import DeliveryError, Destination
from mcp_guard.witness.submission import Acceptance, Submission

TIMEOUT_SECONDS = 60
GIT_LOCATION_VARIABLES = (
    "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR", "GIT_PREFIX",
)  # fmt: skip
"""Variables that would make git work on another repository."""


def send(destination: Destination, submission: Submission) -> Acceptance:
    """Raises: DeliveryError, Contradicted."""
    repository = Repository(destination, submission)
    parent = repository.fetch()
    held = repository.read(parent) if parent else None
    evidence = submission.check(held)
    if held == submission.note:
        return Acceptance(evidence | {"commit": parent})  # pushed by an earlier run that ended before it recorded this
    commit = repository.commit(parent, submission.note, f"Checkpoint of {submission.head.size} receipts")
    repository.run("push", "--quiet", repository.remote, f"{commit}:{repository.branch}")
    return Acceptance(evidence | {"commit": commit})


class Repository:
    """The bare repository in the witness's folder."""

    def __init__(self, destination: Destination, submission: Submission) -> None:
        """Raises: DeliveryError."""
        work_dir, options = submission.work_dir, destination.options
        self.path, self.base_dir = work_dir / "repository.git", destination.base_dir
        self.remote, self.file = options["remote"], options["path"]
        self.branch = f"refs/heads/{options['branch']}"
        inherited = {
            name: value for name, value in destination.environment.items() if name not in GIT_LOCATION_VARIABLES
        }
        self.environment = inherited | {
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_INDEX_FILE": str(work_dir / "index"),
            "GIT_AUTHOR_NAME": "mcp-guard",
            "GIT_AUTHOR_EMAIL": "mcp-guard@localhost",
            "GIT_COMMITTER_NAME": "mcp-guard",
            "GIT_COMMITTER_EMAIL": "mcp-guard@localhost",
        }
        self.environment.setdefault("GIT_SSH_COMMAND", "ssh -o BatchMode=yes")
        if not self.path.exists():
            self.run("init", "--quiet", "--bare", str(self.path), in_repository=False)

    def fetch(self) -> str:
        """Fetch the newest commit of the branch. Returns its id, or an empty string if there is no such branch."""
        if not self.run("ls-remote", self.remote, self.branch):
            return ""
        self.run("fetch", "--quiet", "--no-tags", "--depth=1", self.remote, self.branch)
        return self.run("rev-parse", "FETCH_HEAD")

    def read(self, commit: str) -> str | None:
        """The file's content in a commit, or None if the commit does not have it."""
        if not self.run("ls-tree", commit, "--", self.file):
            return None
        return self.run("cat-file", "blob", f"{commit}:{self.file}", strip=False)

    def commit(self, parent: str, text: str, message: str) -> str:
        """Commit the file on top of `parent`, with all other files unchanged. Returns the commit's id."""
        blob = self.run("hash-object", "-w", "--stdin", input=text)
        self.run("read-tree", parent or "--empty")
        self.run("update-index", "--add", "--cacheinfo", f"100644,{blob},{self.file}")
        tree = self.run("write-tree")
        return self.run("commit-tree", tree, *(["-p", parent] if parent else []), "-m", message)

    def run(self, *arguments: str, input: str = "", strip: bool = True, in_repository: bool = True) -> str:
        """Run git and return its output; with `strip`, only the text before the first tab.

        Raises: DeliveryError, which contains neither the remote's address nor credentials in it.
        """
        argv = ["git", *([f"--git-dir={self.path}"] if in_repository else []), *arguments]
        try:
            process = subprocess.run(
                argv, input=input.encode(), capture_output=True, timeout=TIMEOUT_SECONDS, check=False,
                env=self.environment, cwd=self.base_dir,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise DeliveryError(f"`git {arguments[0]}` did not finish within {TIMEOUT_SECONDS} s") from None
        except OSError as error:
            raise DeliveryError(f"cannot run `git {arguments[0]}`: {error.strerror}") from None
        if process.returncode:
            raise DeliveryError(f"`git {arguments[0]}` failed: {self._reason(process.stderr)}")
        text = process.stdout.decode(errors="replace")
        return text.split("\t")[0].strip() if strip else text

    def _reason(self, stderr: bytes) -> str:
        """git's error line, with addresses and quoted names replaced by `the remote`."""
        lines = stderr.decode(errors="replace").strip().splitlines()
        reason = next((line for line in lines if line.startswith(("fatal:", "error:", " ! "))), "")
        host = re.match(r"(?:\w+://)?(?:[^@/]*@)?([^:/]+)", self.remote)
        hidden = [re.escape(self.remote), *([rf"\b{re.escape(host[1])}\b"] if host else [])]
        return re.sub("|".join([r"'[^']*'", r"\S+://\S+", *hidden]), "the remote", reason).strip() or "no error message"
