"""REST under /api/v1: the same readings as the pages, as JSON; errors are problem+json.

Place in the house   app -> api -> jobguard.observe, jobguard.operate
"""

from flask import Blueprint

from jobguard_webui.api import cluster, config, deploy, document, locks, refusals, runs, schedules

bp = Blueprint("api", __name__, url_prefix=document.PREFIX)
for noun in (locks, runs, refusals, schedules, deploy, config, cluster, document):
    bp.register_blueprint(noun.bp)
