"""The digest, with its guard in Django's own transaction."""

import os

from celery import shared_task
from django.db import transaction

import jobguard
from shop.models import Guard, Sent


@shared_task(name="shop.send_digest")
def send_digest():
    """Send the digest of this occurrence, once."""
    run = jobguard.current()
    with transaction.atomic():
        fence(
            "digest", run
        )  # before the first read: a twin that still runs somewhere is refused from here on
        Sent.objects.get_or_create(occurrence=run.nominal_time, defaults={"worker": os.uname().nodename})


def fence(resource, run):
    """Advance the guard to this run's token. Raises Fenced for one that comes too late."""
    Guard.objects.get_or_create(resource=resource)
    if not Guard.objects.filter(resource=resource, token__lte=run.fencing_token).update(
        token=run.fencing_token
    ):
        raise jobguard.Fenced(f"{resource} has seen a newer token than {run.fencing_token}")
