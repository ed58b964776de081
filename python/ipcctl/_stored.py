"""The files and the project of a group, as the host has them: what workers get by the plugins of these names."""

from __future__ import annotations

from base64 import b64decode, b64encode

from ._contract import FILE_PIECE_BYTES_MAX

TYPE_CHECKING = False  # as typing has it, which takes long to load
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any, BinaryIO, List, Literal  # in a class with a method `list` that is no type

    from ._client import Ipcctl
    from ._verbs import Conversation, Message, Project, StoredFile


class GroupFiles:
    """The project files of a group. Contents go in pieces, which the daemon puts in their place as a whole."""

    def __init__(self, ipcctl: Ipcctl, group: str) -> None:
        self._ipcctl = ipcctl
        self.group = group

    def list(self, *, conversation: str | None = None, name: str | None = None) -> List[StoredFile]:
        """Oldest first: those of a conversation and of the whole project, or all; of one name only."""
        found: list[StoredFile] = []
        after = None
        while True:
            page = self._query("ListFiles", conversation_id=conversation, name=name, after=after)
            found += page["files"]
            after = page["next"]
            if after is None:
                return found

    def put(
        self,
        name: str,
        content: str | bytes | BinaryIO,
        *,
        conversation: str | None = None,
        media_type: str | None = None,
    ) -> StoredFile:
        """Writes a file, in the place of one of that name. It is seen when all of it has come.

        :param content: text, bytes, or a file that is open for reading bytes
        :param conversation: without it, the file belongs to the whole project
        """
        target = {"name": name, "conversation_id": conversation, "media_type": media_type}
        upload, offset = None, 0
        for piece, more in _pieces(content):
            encoded = b64encode(piece).decode()
            answer = self._query("PutFile", **target, content=encoded, upload=upload, offset=offset, more=more)
            upload = answer["upload"]
            offset += len(piece)
        file: StoredFile = answer["file"]
        return file

    def read(self, id: str) -> Iterator[bytes]:
        """A content in pieces; an error if it is replaced meanwhile."""
        offset, version = 0, None
        while offset is not None:
            piece = self._query("ReadFile", id=id, offset=offset, version=version)
            yield b64decode(piece["content"])
            offset, version = piece["next_offset"], piece["file"]["version"]

    def get(self, id: str) -> bytes:
        """A whole content."""
        return b"".join(self.read(id))

    def delete(self, id: str) -> None:
        self._ipcctl.request({"DeleteFile": {"group": self.group, "id": id}})

    def _query(self, verb: str, **fields: object) -> Any:
        return self._ipcctl.request({verb: {"group": self.group, **fields}})["Data"]["data"]


class GroupProject:
    """What a group works on, and what was said in its conversations."""

    def __init__(self, ipcctl: Ipcctl, group: str) -> None:
        self._ipcctl = ipcctl
        self.group = group

    def show(self) -> Project:
        """What was set, and how many conversations there are."""
        project: Project = self._query("ShowProject")["project"]
        return project

    def set(self, values: Mapping[str, object], *, conversation: str | None = None) -> None:
        """Sets values beside those that are there; None removes one."""
        fields = {"group": self.group, "conversation_id": conversation, "values": dict(values)}
        self._ipcctl.request({"SetProject": fields})

    def conversation(self, id: str) -> Conversation:
        found: Conversation = self._query("ShowProject", conversation_id=id)["conversation"]
        return found

    def conversations(self) -> list[Conversation]:
        """All of them, by their ids."""
        found: list[Conversation] = []
        after = None
        while True:
            page = self._query("ListConversations", after=after)
            found += page["conversations"]
            after = page["next"]
            if after is None:
                return found

    def messages(self, conversation: str, count: int | None = None) -> list[Message]:
        """The newest messages, oldest first; without a count all that are kept."""
        found: list[Message] = []
        before = None
        while count is None or len(found) < count:
            page = self._query("ReadMessages", conversation_id=conversation, before=before)
            found = page["messages"] + found
            before = page["next"]
            if before is None:
                break
        return found if count is None else found[max(0, len(found) - count) :]

    def say(self, conversation: str, role: Literal["user", "assistant", "system", "tool"], text: str) -> Message:
        """Adds a message to a conversation, which begins with its first one."""
        message: Message = self._query("AddMessage", conversation_id=conversation, role=role, text=text)
        return message

    def _query(self, verb: str, **fields: object) -> Any:
        return self._ipcctl.request({verb: {"group": self.group, **fields}})["Data"]["data"]


def _pieces(content: str | bytes | BinaryIO) -> Iterator[tuple[bytes, bool]]:
    """Pieces as large as one request takes, each with whether more come; at least one."""
    if isinstance(content, str):
        content = content.encode()
    if isinstance(content, (bytes, bytearray, memoryview)):
        data = bytes(content)
        for at in range(0, max(1, len(data)), FILE_PIECE_BYTES_MAX):
            end = at + FILE_PIECE_BYTES_MAX
            yield data[at:end], end < len(data)
        return
    held = content.read(FILE_PIECE_BYTES_MAX)
    while True:
        following = content.read(FILE_PIECE_BYTES_MAX) if held else b""
        yield held, bool(following)
        if not following:
            return
        held = following
