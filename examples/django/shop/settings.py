"""As little of Django as a task with a database needs, and Celery's settings with jobguard's among them."""

import os

SECRET_KEY = "of no use outside of this example"
INSTALLED_APPS = ["shop"]
DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ.get("OUTBOX", "outbox.db")}
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "UTC"

CELERY_BROKER_URL = CELERY_RESULT_BACKEND = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")
CELERY_BEAT_SCHEDULE = {"digest": {"task": "shop.send_digest", "schedule": 10.0}}

CELERY_BEAT_SCHEDULER = "jobguard"
CELERY_JOBGUARD_ENDPOINTS = os.environ.get("JOBGUARD_ENDPOINTS", "http://127.0.0.1:2379").split(",")
CELERY_JOBGUARD_JOBS = {"digest": {"on_lost": "rerun"}}
