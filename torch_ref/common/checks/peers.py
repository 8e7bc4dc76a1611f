"""Checks and error texts for trainings that several processes share."""

from .arguments import check_integer, shown


def check_processes(coordinator: object, processes: object, process_id: object) -> None:
    """Raises ValueError unless all three are None, or say where process 0 is, how many there are, and which this is."""
    given = {"coordinator": coordinator, "processes": processes, "process_id": process_id}
    if all(value is None for value in given.values()):
        return
    missing = [name for name, value in given.items() if value is None]
    if missing:
        raise ValueError(f"{', '.join(missing)}: expected all of {', '.join(given)}, or none, got None")
    if (
        not isinstance(coordinator, str)
        or not coordinator.rpartition(":")[0]
        or not coordinator.rpartition(":")[2].isdigit()
    ):
        raise ValueError(f"coordinator: expected host:port, got {shown(coordinator)}")
    if check_integer("process_id", process_id, at_least=0) >= check_integer("processes", processes, at_least=1):
        raise ValueError(f"process_id: expected a number below {processes}, the number of processes, got {process_id}")


def peers_not_found(coordinator: str | None) -> str:
    """Returns the error text for a process that cannot reach its peers."""
    where = "where the environment says they are" if coordinator is None else f"at {coordinator}"
    return f"expected to find the other processes {where}"


PEER_LOST = "expected all processes to stay until the training ends, but one of them is gone"
