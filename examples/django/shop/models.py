"""What was sent, and for whom the last word is."""

from django.db import models


class Sent(models.Model):
    """The digest of one occurrence."""

    occurrence = models.DateTimeField(primary_key=True)
    worker = models.CharField(max_length=200)


class Guard(models.Model):
    """The largest fencing token that a resource has seen; a smaller one is a late holder's."""

    resource = models.CharField(max_length=200, primary_key=True)
    token = models.BigIntegerField(default=0)
