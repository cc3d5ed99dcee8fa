"""Parses a command line of a shell, as far as its text alone says what is run. Pure.

It reads simple commands with literal words and redirections to literal paths, joined by `&&`, `||`, `;`, `|` and new
lines (POSIX.1-2024, Shell Command Language §2.2, §2.7, §2.9). Whatever else a shell would do with the line is a
`Doubt`: then something may run, be read or be written that is not in the result.

INVARIANT: in Bash, dash and zsh with the options that they have by default, a line without doubts runs exactly the
commands of the result, and writes and reads by redirection exactly the paths of the result. It says nothing of what
those programs do.
"""

import posixpath
import re
from dataclasses import dataclass, field
from enum import StrEnum


class Doubt(StrEnum):
    """Why a line may do something else than its parsed commands say."""

    SYNTAX = "syntax"
    """The line cannot be read: an open quote, a control character, an operator without a command, a target of a
    redirection or a line continuation that shells read in several ways, or it is too long."""
    EXPANSION = "expansion"
    """A variable, a substitution, arithmetic or a brace expansion."""
    GLOB = "glob"
    """A pattern, which stands for the names of files."""
    TILDE = "tilde"
    """`~` stands for a home folder."""
    COMPOUND = "compound"
    """A subshell, a loop, a condition, a function, or another reserved word."""
    HEREDOC = "heredoc"
    ASSIGNMENT = "assignment"
    """A variable is set for a command, which may change what it does (`PATH`, `LD_PRELOAD`, `GIT_SSH_COMMAND`)."""
    BACKGROUND = "background"
    """A command goes on after the line has ended."""
    FOLDER = "folder"
    """A command runs in a folder that is not certain."""
    LINKS = "links"
    """A program follows the links in folders, which may lead anywhere."""
    MANY_FILES = "many_files"
    """A program reads more files than are looked through, by a pattern or in folders, or a pattern stands for other
    files in zsh."""
    RUNS_PROGRAM = "runs_program"
    """A program runs another one that it is told of (`sudo`, `xargs`, `find -exec`), or code (`eval`, `sh -c`)."""


@dataclass(frozen=True, slots=True)
class SimpleCommand:
    """One command. `folder` is where it runs: an absolute path, not normalized. `patterns` are those of its words that
    stand for names of files."""

    words: tuple[str, ...]
    folder: str
    patterns: tuple[str, ...] = ()

    @property
    def program(self) -> str:
        return self.words[0]

    @property
    def arguments(self) -> tuple[str, ...]:
        return self.words[1:]


@dataclass(frozen=True, slots=True)
class ShellLine:
    """`writes` and `reads` are the targets of redirections: absolute paths, not normalized."""

    commands: tuple[SimpleCommand, ...] = ()
    writes: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    doubts: frozenset[Doubt] = frozenset()


def names(text: str) -> frozenset[str]:
    """The words of a text, for long lists of names."""
    return frozenset(text.split())


RESERVED = names(
    "! { } [[ ]] case coproc do done elif else end esac fi for foreach function if in nocorrect repeat select then "
    "time until while"
)
CHANGES_FOLDER = frozenset({"cd", "chdir", "pushd", "popd"})
ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\[[^]]*\])?\+?=")
OPERATORS = ("&&", "||", "|&", "|", ";", "&", "\n")
REDIRECTIONS = ("&>>", "&>", "<<<", "<<-", "<<", "<>", "<&", "<", ">>", ">|", ">&", ">")
READS, WRITES = frozenset({"<", "<>"}), frozenset({"<>", ">", ">>", ">|", "&>", "&>>", ">&"})
EXPANDS = re.compile(r"\$[^ \t\n;&|<>)%,./:\]}\\]|`")
"""What is not certainly a dollar sign: zsh expands `$=NAME`, `$^NAME`, `$~NAME`, `$+NAME` and names in any script."""
NUMERIC_GLOB = re.compile(r"<[0-9]*-[0-9]*>")
"""A pattern for zsh, and two redirections for other shells."""
UNREADABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
PLAIN = re.compile(r"[^\s;&|<>()\\'\"$`*?\[{=~]+")
IN_DOUBLE_QUOTES = re.compile(r'[^"\\$`]+')
MAX_LENGTH, MAX_WORDS = 16 * 1024, 1000
"""Of a line that is read, so that reading it takes milliseconds. The rest of a longer one is a `Doubt.SYNTAX`."""
BRACE_ALONE = re.compile(r"\}?(?=[\s;&|<>()]|$)")
DESCRIPTOR = re.compile(r"-|[0-9]+")


@dataclass(slots=True)
class Word:
    """A word: its literal text, where in it the first quote was, and whether it is a pattern."""

    text: str = ""
    quoted_at: int | None = None
    is_pattern: bool = False

    @property
    def is_quoted(self) -> bool:
        return self.quoted_at is not None

    @property
    def is_assignment(self) -> bool:
        name = ASSIGNMENT.match(self.text)
        return name is not None and (self.quoted_at is None or self.quoted_at >= name.end())


@dataclass(slots=True)
class _ShellReader:
    line: str
    at: int = 0
    doubts: set[Doubt] = field(default_factory=set)

    def tokens(self) -> list[tuple[str, Word | str]]:
        """Pairs of `word` and the word, `redirect` and its operator, or `operator` and the operator."""
        tokens: list[tuple[str, Word | str]] = []
        while self.at < len(self.line):
            if self.line[self.at] in " \t":
                self.at += 1
            elif self.line.startswith("\\\n", self.at):
                self.note_continuation(self.at)
                self.at += 2
            elif self.line[self.at] == "#":
                end = self.line.find("\n", self.at)
                self.at = len(self.line) if end < 0 else end
            elif self.line[self.at] in "()":
                self.doubts.add(Doubt.COMPOUND)
                self.at += 1
                tokens.append(("operator", ";"))
            elif sign := self.redirection():
                tokens.append(("redirect", sign))
            elif sign := next((sign for sign in OPERATORS if self.line.startswith(sign, self.at)), ""):
                self.at += len(sign)
                tokens.append(("operator", sign))
            else:
                word = self.word()
                is_number = word.text.isascii() and word.text.isdecimal() and not word.is_quoted
                if not (is_number and self.line[self.at : self.at + 1] in ("<", ">")):
                    tokens.append(("word", word))
                elif len(word.text) > 1:  # a file descriptor for Bash, and a word for zsh and POSIX
                    self.doubts.add(Doubt.SYNTAX)
        return tokens

    def redirection(self) -> str:
        """The operator that was read; empty if there is none."""
        sign = next((sign for sign in REDIRECTIONS if self.line.startswith(sign, self.at)), "")
        if NUMERIC_GLOB.match(self.line, self.at):
            self.doubts.add(Doubt.SYNTAX)
        self.at += len(sign)
        return sign

    def word(self) -> Word:
        word, parts, length = Word(), list[str](), 0
        while self.at < len(self.line) and self.line[self.at] not in " \t\n;&|<>()":
            if plain := PLAIN.match(self.line, self.at):
                part, self.at = plain[0], plain.end()
            else:
                char = self.line[self.at]
                self.at += 1
                quotes = char in "'\"" or (char == "\\" and not self.line.startswith("\n", self.at))
                if quotes and word.quoted_at is None:
                    word.quoted_at = length
                if char == "\\":
                    part = self.escaped()
                elif char == "'":
                    part = self.until("'")
                elif char == '"':
                    part = self.double_quoted()
                else:
                    self.note_expansion(char, word, parts[-1][-1] if parts else "")
                    part = char
            if part:
                parts.append(part)
                length += len(part)
        word.text = "".join(parts)
        return word

    def escaped(self) -> str:
        char = self.line[self.at : self.at + 1]
        if not char:
            self.doubts.add(Doubt.SYNTAX)
        if char == "\n":
            self.note_continuation(self.at - 1)
        self.at += 1
        return char.replace("\n", "")

    def note_continuation(self, at: int) -> None:
        """A shell removes the backslash and the new line before it reads: `$\\⏎(` is `$(`, and `&\\⏎&` is `&&`."""
        if at and self.line[at - 1] not in " \t\n":
            self.doubts.add(Doubt.SYNTAX)

    def note_expansion(self, char: str, word: Word, before: str) -> None:
        """Note what the shell makes of this character, which is not quoted and was just read; `before` is the one
        before it in the word."""
        if char in "$`" and EXPANDS.match(self.line, self.at - 1):
            self.doubts.add(Doubt.EXPANSION)
        elif char in "*?[":
            self.doubts.add(Doubt.GLOB)
            word.is_pattern = True
        elif char == "{" and self._in_a_word(before):
            self.doubts.add(Doubt.EXPANSION)
        elif char == "=" and not before:
            self.doubts.add(Doubt.EXPANSION)  # zsh replaces `=NAME` by the path of a program
        elif char == "~" and (not before or before in "=:"):
            self.doubts.add(Doubt.TILDE)

    def _in_a_word(self, before: str) -> bool:
        """Whether the `{` that was just read is more than the reserved word or `{}`. Bash takes `.{},env}` for `.}` and
        `.env`."""
        return bool(before) or not BRACE_ALONE.match(self.line, self.at)

    def until(self, quote: str) -> str:
        end = self.line.find(quote, self.at)
        if end < 0:
            self.doubts.add(Doubt.SYNTAX)
            end = len(self.line)
        text, self.at = self.line[self.at : end], end + 1
        return text

    def double_quoted(self) -> str:
        parts = []
        while self.at < len(self.line) and self.line[self.at] != '"':
            if plain := IN_DOUBLE_QUOTES.match(self.line, self.at):
                parts.append(plain[0])
                self.at = plain.end()
                continue
            char = self.line[self.at]
            if self.line.startswith("\\\n", self.at):
                self.note_continuation(self.at)
                self.at += 2
                continue
            if char == "\\" and self.line[self.at + 1 : self.at + 2] in ("$", "`", '"', "\\"):
                parts.append(self.line[self.at + 1])
                self.at += 2
                continue
            if char in "$`" and EXPANDS.match(self.line, self.at):
                self.doubts.add(Doubt.EXPANSION)
            parts.append(char)
            self.at += 1
        if self.at >= len(self.line):
            self.doubts.add(Doubt.SYNTAX)
        self.at += 1
        return "".join(parts)


@dataclass(slots=True)
class _Parser:
    folder: str
    doubts: set[Doubt]
    commands: list[SimpleCommand] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)
    reads: list[str] = field(default_factory=list)
    words: list[Word] = field(default_factory=list)
    has_redirection: bool = False
    ends_in_posix: bool = False
    """Whether `&>` came in this command, which without Bash's or zsh's extension is `&`, and then `>`."""
    last: str = "\n"
    """The operator before the command."""
    sign: str = ""
    """The redirection whose target comes next."""
    is_piped: bool = False
    """Whether the command is the end of a pipe, so that it runs in a subshell."""
    has_moved: bool = False
    """Whether a `cd` came before; it may have failed."""
    is_certain: bool = True
    """Whether the command runs if all before it in its list succeed: no `||` came before it."""

    def take(self, tokens: list[tuple[str, Word | str]]) -> ShellLine:
        for kind, value in tokens:
            if kind == "word":
                assert isinstance(value, Word)
                self.take_word(value)
            elif self.sign:
                self.doubts.add(Doubt.SYNTAX)
                self.sign = ""
            elif kind == "redirect":
                assert isinstance(value, str)
                self.sign, self.has_redirection = value, True
                self.ends_in_posix |= value.startswith("&>")
            elif value != "\n" or self.has_command or self.last in ("\n", ";", "&"):  # else the line goes on
                assert isinstance(value, str)
                if not self.has_command and value != "\n" and Doubt.COMPOUND not in self.doubts:
                    self.doubts.add(Doubt.SYNTAX)  # an operator where a command should be; a new line may be there
                self.end_command(value)
                self.last = value
        if self.sign or (self.last in ("&&", "||", "|", "|&") and not self.has_command):
            self.doubts.add(Doubt.SYNTAX)
        self.end_command("")
        return ShellLine(tuple(self.commands), tuple(self.writes), tuple(self.reads), frozenset(self.doubts))

    @property
    def has_command(self) -> bool:
        return bool(self.words) or self.has_redirection

    def take_word(self, word: Word) -> None:
        if not self.sign:
            if self.ends_in_posix:
                self.doubts.add(Doubt.SYNTAX)
            self.words.append(word)
            return
        sign, self.sign = self.sign, ""
        if sign.startswith("<<"):
            if sign != "<<<":
                self.doubts.add(Doubt.HEREDOC)
            return
        if sign in ("<&", ">&"):
            if DESCRIPTOR.fullmatch(word.text) and not word.is_quoted:
                return  # another descriptor of the same command
            self.doubts.add(Doubt.SYNTAX)  # Bash expands a path twice, `>&-x` is `>&- x`, and `>&1-` a file of zsh
        if word.text.startswith("!") or word.is_pattern:  # `>! FILE` is an operator of zsh; a pattern is another path
            self.doubts.add(Doubt.SYNTAX)
        path = posixpath.join(self.folder, word.text)
        if sign in WRITES:
            self.writes.append(path)
        if sign in READS:
            self.reads.append(path)

    def end_command(self, operator: str) -> None:
        if operator == "&":
            self.doubts.add(Doubt.BACKGROUND)
        words = self.words
        while words and words[0].is_assignment:
            self.doubts.add(Doubt.ASSIGNMENT)
            words = words[1:]
        if words and words[0].text in RESERVED and not words[0].is_quoted:
            self.doubts.add(Doubt.COMPOUND)
        if words and not words[0].text:
            self.doubts.add(Doubt.SYNTAX)
        if self.has_command and self.has_moved and self.last not in ("&&", "|", "|&"):
            self.doubts.add(Doubt.FOLDER)
        if words and words[0].text:
            patterns = tuple(word.text for word in words if word.is_pattern)
            self.commands.append(SimpleCommand(tuple(word.text for word in words), self.folder, patterns))
            self.follow_folder(self.commands[-1], operator)
        self.words, self.has_redirection, self.ends_in_posix = [], False, False
        self.is_piped = operator in ("|", "|&")
        self.is_certain = operator != "||" and (self.is_certain or operator in (";", "\n", "&"))

    def follow_folder(self, command: SimpleCommand, operator: str) -> None:
        """Whatever follows `cd FOLDER &&` runs there."""
        if command.program not in CHANGES_FOLDER or operator == "":
            return
        is_plain = not command.patterns and command.program == "cd" and len(command.words) == 2
        is_plain = is_plain and not command.words[1].startswith(("-", "+"))
        if is_plain and operator == "&&" and self.is_certain and not self.is_piped and command.words[1]:
            self.folder, self.has_moved = posixpath.join(self.folder, command.words[1]), True
        else:
            self.doubts.add(Doubt.FOLDER)


def parse_line(line: str, folder: str) -> ShellLine:
    """What the line runs in a shell that starts in `folder`, an absolute path."""
    reader = _ShellReader(line[:MAX_LENGTH])
    tokens = reader.tokens()
    if len(line) > MAX_LENGTH or len(tokens) > MAX_WORDS or UNREADABLE.search(reader.line):
        reader.doubts.add(Doubt.SYNTAX)
    return _Parser(folder, reader.doubts).take(tokens[:MAX_WORDS])
