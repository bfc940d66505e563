"""The Celery app of the shop: its settings are Django's, under CELERY_."""

import os

from celery import Celery

import jobguard

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")

app = Celery("shop")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
jobguard.install(app)
