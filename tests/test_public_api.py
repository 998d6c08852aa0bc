"""The public names, their signatures on both fronts, and the direction in which modules import each other."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import identity_session
from identity_session import AsyncIdentitySession, AsyncIdentityUser, IdentitySession, IdentityUser

PACKAGE = Path(identity_session.__file__).parent


def public(thing: type) -> set[str]:
    return {name for name in dir(thing) if not name.startswith("_")}


def test_every_public_name_is_listed_and_exists() -> None:
    """`__all__` is sorted, complete, and imports."""
    assert identity_session.__all__ == sorted(identity_session.__all__)
    for name in identity_session.__all__:
        assert getattr(identity_session, name) is not None
    own = {name: value for name, value in vars(identity_session).items() if not name.startswith("_")}
    exported = {name for name, value in own.items() if inspect.isclass(value) and "identity_session" in str(value)}
    assert exported <= set(identity_session.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        identity_session.no_such_name  # noqa: B018


def test_both_fronts_have_the_same_members() -> None:
    assert public(IdentitySession) == public(AsyncIdentitySession)
    assert public(IdentityUser) == public(AsyncIdentityUser)


def test_both_fronts_take_the_same_arguments() -> None:
    """Every method has the same parameters, defaults included; those that do something are awaited."""
    awaited, plain = set(), set()
    for name in public(IdentitySession) | {"__init__"}:
        ours, theirs = getattr(IdentitySession, name), getattr(AsyncIdentitySession, name)
        if callable(ours):
            assert parameters(ours) == parameters(theirs), name
            (awaited if inspect.iscoroutinefunction(theirs) else plain).add(name)
    assert plain == {"__init__", "on_user_identified"}
    assert {"start", "close", "identify", "login", "logout", "modify", "search", "alias_users", "touch"} <= awaited


def parameters(function: object) -> list[tuple[str, object, object]]:
    signature = inspect.signature(function)
    return [(p.name, p.kind, p.default) for p in signature.parameters.values()]


def test_the_constructor_has_the_documented_defaults() -> None:
    defaults = {p.name: p.default for p in inspect.signature(IdentitySession).parameters.values()}
    assert defaults["base_url"] == "https://identity.mparticle.com/v1"
    assert defaults["environment"] == "production"
    assert defaults["platform"] == "other"
    assert defaults["timeout"] == 10.0
    assert defaults["session_timeout"].total_seconds() == 1800
    assert defaults["alias_max_window"].days == 90
    assert defaults["retry"] == identity_session.RetryPolicy()
    assert defaults["keep_ephemeral_users"] is True
    assert defaults["strict_storage"] is True


def test_every_public_member_has_a_docstring() -> None:
    for name in identity_session.__all__:
        thing = getattr(identity_session, name)
        if inspect.isclass(thing):
            assert thing.__doc__, name
            for member in public(thing) if thing.__module__.startswith("identity_session") else ():
                value = inspect.getattr_static(thing, member)
                if callable(value) or isinstance(value, property):
                    assert inspect.getdoc(getattr(thing, member)), f"{name}.{member}"


@pytest.mark.parametrize("heavy", ["httpx", "pydantic", "asyncio", "filelock", "platformdirs"])
def test_importing_the_package_does_not_import(heavy: str) -> None:
    code = f"import identity_session, sys; sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_few_programs_use_is_not_imported_with_the_package() -> None:
    code = (
        "import sys, identity_session\n"
        "rare = {'doctor', 'findings', 'idsync', 'testing', 'cli'}\n"
        "sys.exit(bool({f'identity_session.{name}' for name in rare} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_fault_tools_need_no_more_than_the_package_until_they_are_used() -> None:
    code = (
        "import sys, identity_session.testing.faults\n"
        "heavy = {'pytest', '_pytest', 'httpx', 'pydantic', 'asyncio', 'filelock', 'identity_session.idsync'}\n"
        "sys.exit(bool(heavy & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_asking_who_the_user_is_imports_neither_httpx_nor_pydantic(tmp_path: Path) -> None:
    code = (
        "import sys; from identity_session import IdentitySession\n"
        f"session = IdentitySession('key', storage={str(tmp_path / 'state')!r})\n"
        "assert session.current_user is None and session.get_users() == []\n"
        "sys.exit(bool({'httpx', 'pydantic'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert not (tmp_path / "state").exists()


def test_what_few_programs_ask_for_is_imported_when_they_do(tmp_path: Path) -> None:
    code = (
        "import sys; from identity_session import IdentitySession\n"
        f"IdentitySession('key', storage={str(tmp_path / 'state')!r})\n"
        "sys.exit('identity_session.fallback' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Each module of the client and what it may import of the package; a module may always import the ones before it,
# except where this says less.
ROOMS = [
    "version",
    "errors",
    "clock",
    "threads",
    "identities",
    "users",
    "signing",
    "aliasing",
    "exchange",
    "aioclock",
    "consent",
    "attributes",
    "states",
    "retry",
    "rules",
    "cache",
    "wire",
    "files",
    "store",
    "fallback",
    "archive",
    "config",
    "findings",
    "doctor",
    "conversation",
    "policy",
    "core",
    "listeners",
    "views",
    "network",
    "transport",
    "endpoint",
    "front",
    "session",
    "aio",
]
LESS = {
    "errors": set(),
    "states": {"errors", "exchange"},
    "rules": {"users", "exchange", "identities"},
    "files": {"errors", "clock"},
    "store": {"files", "errors", "clock", "threads"},
    "fallback": {"store", "errors", "clock", "threads"},
    "archive": {"store", "users", "identities", "errors"},
    "findings": set(),
    "doctor": {"archive", "config", "errors", "files", "findings", "store"},
    "conversation": {"errors", "exchange", "states", "users"},
    "policy": {"cache", "config", "exchange", "rules", "users"},
    "core": {"aliasing", "cache", "config", "conversation", "errors", "exchange"}
    | {"identities", "policy", "states", "users"},
    "listeners": set(),
    "network": {"aioclock", "clock", "config", "threads"},
    "transport": {"aioclock", "exchange", "network", "threads"},
}
PURE = {"conversation", "identities", "users", "states", "retry", "rules", "cache", "policy", "core"}
IO_MODULES = {"os", "pathlib", "socket", "time", "random", "httpx", "asyncio", "uuid", "shutil", "subprocess"}


def imports(path: Path) -> tuple[set[str], set[str]]:
    """Modules of this package, and top-level names of others, that a file imports anywhere."""
    own, others = set(), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            package = path.parent if node.level == 1 else path.parent.parent
            inside = package.relative_to(PACKAGE).parts
            own |= {
                ".".join([*inside, node.module or alias.name] if node.module or not inside else [*inside, alias.name])
                for alias in node.names
            }
        elif isinstance(node, ast.ImportFrom):
            others.add((node.module or "").partition(".")[0])
        elif isinstance(node, ast.Import):
            others |= {alias.name.partition(".")[0] for alias in node.names}
    return own, others


def modules(folder: Path) -> list[Path]:
    """Every module below this folder, and there are some."""
    found = list(folder.rglob("*.py"))
    assert len(found) > 5
    return found


@pytest.mark.parametrize("number", range(len(ROOMS)), ids=ROOMS)
def test_a_module_imports_only_what_stands_above_it(number: int) -> None:
    room = ROOMS[number]
    own, others = imports(PACKAGE / f"{room}.py")
    assert own <= LESS.get(room, set(ROOMS[:number])) & set(ROOMS[:number])
    assert "identity_session" not in others
    if room in PURE:
        assert not others & IO_MODULES


def test_one_module_touches_httpx_and_one_the_layer_below_it() -> None:
    touching = {name: {p.stem for p in PACKAGE.glob("*.py") if name in imports(p)[1]} for name in ("httpx", "httpcore")}
    assert touching == {"httpx": {"transport"}, "httpcore": {"network", "transport"}}


def test_every_module_has_its_place_in_the_order() -> None:
    present = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert present == set(ROOMS)


def test_the_command_line_stands_on_top() -> None:
    """Nothing but `__main__` imports it."""
    for path in modules(PACKAGE):
        if "cli" not in path.parts:
            assert path.stem == "__main__" or not any(name.startswith("cli") for name in imports(path)[0]), path


@pytest.mark.parametrize("package", ["idsync", "testing"])
def test_the_client_never_imports_the_service_or_the_tools_for_tests(package: str) -> None:
    """Only the command line does, inside a command."""
    for room in [*ROOMS, "__init__"]:
        assert not any(name.startswith(package) for name in imports(PACKAGE / f"{room}.py")[0]), room


def test_nobody_but_the_command_line_imports_the_doctor() -> None:
    for room in set(ROOMS) - {"doctor"}:
        assert not {"doctor", "findings"} & imports(PACKAGE / f"{room}.py")[0], room


def test_the_tools_for_tests_need_no_pytest() -> None:
    for path in modules(PACKAGE / "testing"):
        assert "pytest" not in imports(path)[1], path


def test_the_service_imports_only_what_client_and_service_share() -> None:
    shared = {"errors", "identities", "wire", "signing", "exchange", "clock", "aioclock"}
    for path in modules(PACKAGE / "idsync"):
        own = {name for name in imports(path)[0] if not name.startswith("idsync")}
        assert own <= shared, path.name


def test_resolver_and_profiles_know_neither_http_nor_sql() -> None:
    for room in ("resolver", "lookup", "profiles", "strategies", "trail"):
        _, others = imports(PACKAGE / "idsync" / f"{room}.py")
        assert not others & {"httpx", "sqlite3", "psycopg", "starlette", "json", "http"}
