"""Several processes that want one folder, or one file."""

import time

from attacks.commands import CONVERSIONS, TRAININGS
from attacks.kills import finish, put_old
from attacks.lab import Lab, digests_of
from attacks.processes import Running
from attacks.record import Record

_TAKEN = "expected a folder that no other training uses"


def trainings_in_one_folder(lab: Lab) -> Record:
    """Three trainings at about once, with the same folder for checkpoints and for outputs."""
    record, command = Record(), lab.next_of("one folder", TRAININGS)
    what = f"{command.name}, three in one folder"
    with lab.new() as folder:
        running = []
        for number in range(3):
            running.append(Running(command.line.split(), folder, number=number))
            time.sleep(lab.random.choice([0, 0, lab.random.uniform(0, lab.whole(command).seconds)]))
        ended = [process.wait() for process in running]
        record.tried += len(ended)
        judged = [record.judge(of_one, what, (0, 2)) for of_one in ended]
        if all(judged):
            if others := [of_one.last for of_one in ended if of_one.code and _TAKEN not in of_one.err]:
                record.bad("wrong", f"{what}: another error than that the folder is taken: {others}")
            if all(of_one.code for of_one in ended):
                record.bad("wrong", f"{what}: none of them trained")
        finish(record, lab, command, folder, what)
    return record


def writers_of_one_file(lab: Lab) -> Record:
    """Three processes at about once that write the same file."""
    record, command = Record(), lab.next_of("one file", CONVERSIONS)
    what = f"{command.name}, three at once"
    with lab.new() as folder:
        put_old(command, folder)
        running = [Running(command.line.split(), folder, number=number) for number in range(3)]
        record.tried += len(running)
        for process in running:
            record.judge(process.wait(), what, (0,))
        if digests_of(command, folder) != lab.whole(command).digests:
            record.bad("lost", f"{what}: the file is not the new one")
    return record
