"""Git in a real guest: its own git, its own server."""

from __future__ import annotations

import pytest
import trio

from agentiso import System, Workspace
from agentiso.library.git import GitFailed

pytestmark = pytest.mark.functional
LIMIT_S = 600
SERVER = """
import base64, functools, http.server
class Guarded(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        if self.headers.get("Authorization") == "Basic " + base64.b64encode(b"me:tok%en").decode():
            return super().do_GET()
        self.send_response(401); self.send_header("WWW-Authenticate", 'Basic realm="x"'); self.end_headers()
    def log_message(self, *a): pass
handler = functools.partial(Guarded, directory="/srv")
http.server.ThreadingHTTPServer(("127.0.0.1", 80), handler).serve_forever()
"""


async def output(workspace: Workspace, command: str) -> str:
    result = await workspace.exec(command)
    assert result.exit_code == 0, result
    return result.stdout.decode().strip()


async def test_a_repository_is_cloned_changed_committed_and_pushed(system: System) -> None:
    with trio.fail_after(LIMIT_S):
        ws = await system.create("coder")
        await output(ws, "git init -q --bare -b main /srv/repo && touch /srv/repo/git-daemon-export-ok")
        await output(ws, "git daemon --detach --base-path=/srv --enable=receive-pack --listen=127.0.0.1")
        empty = await ws.git.clone("git://127.0.0.1/repo")
        assert (empty.path, empty.commit_sha, empty.branch) == ("/workspace", "", "main")

        await ws.files.write("/workspace/a b", "one\n")
        status = await ws.git.status()
        assert (status.branch, status.untracked, status.dirty) == ("main", ("a b",), True)
        first = await ws.git.commit("First; $(touch /evil) 'quoted'", author_name="Ann", author_email="a@b")
        assert (first.status, first.branch) == ("committed", "main")
        assert "$(touch /evil)" in first.summary
        assert await output(ws, "git -C /workspace log --format='%an <%ae> %cn'; ls /evil 2>&1 || true") == (
            "Ann <a@b> Ann\nls: cannot access '/evil': No such file or directory"
        )
        assert (await ws.git.commit("Nothing")).status == "nothing_to_commit"
        pushed = await ws.git.push(set_upstream=True)
        assert (pushed.remote, pushed.branch) == ("origin", "main")
        assert await output(ws, "git -C /srv/repo rev-parse main") == first.commit_sha

        await ws.files.write("/workspace/a b", "one\n" + "two\n" * 1000)
        changed = await ws.git.diff(max_bytes=500)
        assert (changed.truncated, len(changed.diff)) == (True, 500)
        assert changed.diff_bytes > 4000
        assert "1000 insertions" in changed.stat
        assert (await ws.git.diff(staged=True)).diff == ""
        assert "a b" in (await ws.git.diff(stat=True, file_path="a b")).stat
        await ws.git.commit("Second")
        assert (await ws.git.status()).ahead == 1

        # Somebody else was faster.
        other = await ws.git.clone("git://127.0.0.1/repo", "/other", depth=1, branch="main")
        assert other.commit_sha == first.commit_sha
        await ws.files.write("/other/c", "c")
        await ws.git.commit("Other", "/other")
        await ws.git.push("/other")
        with pytest.raises(GitFailed, match="rejected") as caught:
            await ws.git.push()
        assert "pull first" in caught.value.remedy
        await ws.git.push(force=True)

        assert "not a git repository" in (await ws.git.status("/root")).error
        with pytest.raises(GitFailed, match="unable to access"):
            await ws.git.clone("http://example.invalid/x", "/new", timeout_s=60)


async def test_a_token_in_the_address_is_used_once_and_neither_stored_nor_shown(system: System) -> None:
    with trio.fail_after(LIMIT_S):
        ws = await system.create("secretive")
        await output(
            ws,
            "git init -q -b main /tmp/r && cd /tmp/r && echo x > f && git add f && "
            "git -c user.name=a -c user.email=b commit -q -m x && git clone -q --bare /tmp/r /srv/repo && "
            "git -C /srv/repo update-server-info",
        )
        await ws.files.write("/root/server.py", SERVER)
        await output(ws, "setsid python3 /root/server.py > /dev/null 2>&1 &")
        connect = "import socket; socket.create_connection(('127.0.0.1', 80))"
        await output(ws, f'until python3 -c "{connect}"; do :; done')
        made = await ws.git.clone("http://me:tok%25en@127.0.0.1/repo")
        assert (made.url, made.branch) == ("http://127.0.0.1/repo", "main")
        assert await output(ws, "cat /workspace/f") == "x"
        assert await output(ws, "grep -r 'tok%' /workspace /root/.git* || true") == ""
        with pytest.raises(GitFailed) as caught:
            await ws.git.clone("http://me:wrongtoken@127.0.0.1/repo", "/again")
        assert "wrongtoken" not in str(caught.value)
        assert "Credentials" in caught.value.remedy
