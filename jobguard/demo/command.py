"""`jobguard demo`: the whole system on this machine, and optionally the scene that tries to break it.

Place in the house   jobguard.cli finds it by entry point -> demo.stage, demo.account, demo.scene
Never                leaves a process behind
"""

import secrets
import shutil
import tempfile
import time
from contextlib import closing, suppress
from pathlib import Path

import click
from kombu.exceptions import OperationalError

from jobguard.client import Client
from jobguard.config import Config
from jobguard.demo.account import Account, Teller
from jobguard.demo.outbox import FIRST_SENDER
from jobguard.demo.scene import JOB, Scene, deliver_again, report
from jobguard.demo.stage import Stage, StageError, stopped_at_the_end
from jobguard.errors import JobguardError


@click.command()
@click.option(
    "--exit", "play", is_flag=True, help="Play the scene, print what happened, and exit 0 if it held."
)
@click.option("--broker", metavar="URL", help="A Redis or RabbitMQ to use instead of starting a broker.")
@click.option("--keep", is_flag=True, help="Keep the logs and databases of a run that went well.")
def demo(play: bool, broker: str | None, keep: bool) -> None:
    """Watch a scheduled job run once while what runs it is killed.

    Starts three store nodes, two beats, two prefork workers, the web UI and a broker on free ports of this
    machine; a digest is due every ten seconds and sends its e-mails slowly into a database. Ctrl-C stops
    everything. With --exit it delivers a message twice, and kills the worker in mid-body, the leading beat
    and the store's leader itself.

    \b
    Examples:
      jobguard demo
      jobguard demo --exit
      jobguard demo --broker redis://127.0.0.1:6379/9
    """
    folder = Path(tempfile.mkdtemp(prefix="jobguard-demo-"))
    token = secrets.token_urlsafe(18)
    teller = Teller()
    stage = Stage(folder=folder, broker=broker, web_token=token)
    failed = True
    try:
        with stopped_at_the_end(stage):
            failed = not run(stage, teller, play)
    except KeyboardInterrupt:
        failed = play
        teller.say("stopped")
    except StageError as error:
        raise click.ClickException(
            f"the demonstration broke off: {error}\nIts logs are in {folder}"
        ) from error
    finally:
        if failed or keep:
            click.echo(f"Logs and databases are kept in {folder}", err=True)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    if failed:
        raise SystemExit(1)


def run(stage: Stage, teller: Teller, play: bool) -> bool:
    """Start everything and tell what happens; True when there is nothing to complain about."""
    for line in stage.start():
        teller.say(line)
    with Client(list(stage.endpoints.values()), namespace="demo") as client:
        with closing(Config(JOB, client=client)) as config:
            config["sender"] = FIRST_SENDER
        account = Account(client, stage, teller.say)
        try:
            teller.say(f"web UI: {stage.web_url}   token: {stage.web_token}")
            if play:
                judgement = Scene(stage, client, teller.say).play()
                click.echo("\n" + report(judgement) + "\n")
                return not judgement.faults
            hint = " ".join(f"{name}={value}" for name, value in stage.client_environment.items())
            teller.say(f"try in another shell: {hint} jobguard runs list")
            teller.say("kill -9 whatever you like; Ctrl-C here stops everything")
            stay(stage, client, teller)
        finally:
            account.close()
    return True


def stay(stage: Stage, client: Client, teller: Teller) -> None:
    """Until Ctrl-C: bring back what the onlooker killed, after a moment in which its absence shows.

    One digest is delivered twice, for without anybody's doing nobody is ever told no.
    """
    again = None
    while True:
        for name, actor in stage.actors.items():
            if not actor.runs():
                teller.say(f"{name} was killed; its supervisor brings it back in 10 s")
                time.sleep(10)
                stage.revive(name)
        with suppress(JobguardError, OperationalError):  # the onlooker may have killed what it takes
            again = again or deliver_again(stage, client)
        time.sleep(0.5)
