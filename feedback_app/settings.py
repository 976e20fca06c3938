"""Settings, all from the environment; without DATABASE_URL everything is embedded below DATA_DIR."""

import os
import re
import secrets
import shlex
import socket
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import django_stubs_ext
from csp.constants import NONCE, NONE, SELF
from django.core.exceptions import ImproperlyConfigured

from feedback_app.environment import number, one_of, read, whole
from feedback_app.languages import LANGUAGES_DIR, available_languages
from feedback_app.logs import FORMATTERS

django_stubs_ext.monkeypatch()

BASE_DIR = Path(__file__).resolve().parent.parent
DATA_DIR = Path(os.environ.get("DATA_DIR", "var")).resolve()
PRODUCTION = "DATABASE_URL" in os.environ


NEEDED = ("DATABASE_URL", "REDIS_URL", "SERVING_URL", "SECRET_KEY", "ALLOWED_HOSTS", "DATA_DIR")


def needed(name: str) -> str:
    """Return an environment variable that production cannot do without."""
    if missing := [name for name in NEEDED if not os.environ.get(name, "").strip()]:
        raise ImproperlyConfigured(
            f"{', '.join(missing)} not set: with DATABASE_URL set, each setting of production is needed"
        )
    return os.environ[name].strip()


def database_from_url(url: str) -> dict[str, Any]:
    """Return Django's settings of a postgresql:// URL; a host in the query is a socket's folder."""
    parts = urlsplit(url)
    if parts.scheme not in ("postgres", "postgresql"):
        raise ImproperlyConfigured("DATABASE_URL: postgresql://user:password@host:port/name is needed")
    try:
        port = str(parts.port or "")
    except ValueError as error:
        raise ImproperlyConfigured("DATABASE_URL: the port is a number up to 65535") from error
    query = dict(pair.split("=", 1) for pair in parts.query.split("&") if "=" in pair)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path.lstrip("/")),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": unquote(query.pop("host", parts.hostname or "")),
        "PORT": port,
        "OPTIONS": {"pool": {"min_size": 1, "max_size": 8, "timeout": 10}, **query},
        # The pool tries a connection before it gives it out: after a restart of the database all that it kept are dead.
        "CONN_HEALTH_CHECKS": True,
    }


def embedded_secret_key() -> str:
    """Return the key kept in DATA_DIR, made at the first start."""
    path = DATA_DIR / "secret_key"
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        DATA_DIR.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(f".{os.getpid()}")
        fresh.write_text(secrets.token_urlsafe(48))
        fresh.chmod(0o600)
        try:
            os.link(fresh, path)  # fails where another process was first: then both read the one that stands
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
        return path.read_text().strip()


if PRODUCTION:
    DATABASES = {"default": database_from_url(needed("DATABASE_URL"))}
    REDIS_URL = needed("REDIS_URL")
    SERVING_URL = needed("SERVING_URL")
    SECRET_KEY = needed("SECRET_KEY")
    ALLOWED_HOSTS = [host.strip() for host in needed("ALLOWED_HOSTS").split(",")]
else:
    from feedback_app.embedded.paths import database_url, redis_url, serving_url

    DATABASES = {"default": database_from_url(database_url(DATA_DIR))}
    REDIS_URL = os.environ.get("REDIS_URL") or redis_url(DATA_DIR)
    SERVING_URL = os.environ.get("SERVING_URL") or serving_url(DATA_DIR)
    SECRET_KEY = os.environ.get("SECRET_KEY") or embedded_secret_key()
    ALLOWED_HOSTS = os.environ.get("ALLOWED_HOSTS", "127.0.0.1,localhost,[::1]").split(",")

# Where workers reach the pages, for simulated annotators; without it they start a web server of their own meanwhile.
SITE_URL = os.environ.get("SITE_URL", "")
# Where people reach the pages: what e-mails and webhooks link to.
PUBLIC_URL = os.environ.get("PUBLIC_URL") or SITE_URL
# Private networks that webhooks may reach all the same, by commas: 10.1.0.0/16, 127.0.0.1.
WEBHOOK_NETWORKS = read(
    "WEBHOOK_NETWORKS", "", lambda text: [ip_network(part.strip()) for part in text.split(",") if part.strip()],
    "networks such as 10.1.0.0/16, with commas between",
)  # fmt: skip
# Without a host nobody is written to, and the page of notifications says so.
EMAIL_HOST = os.environ.get("EMAIL_HOST", "")
EMAIL_PORT = read("EMAIL_PORT", "587", whole(1, 65535), "a port from 1 to 65535")
EMAIL_HOST_USER = os.environ.get("EMAIL_HOST_USER", "")
EMAIL_HOST_PASSWORD = os.environ.get("EMAIL_HOST_PASSWORD", "")
EMAIL_USE_SSL = EMAIL_PORT == 465
EMAIL_USE_TLS = not EMAIL_USE_SSL and os.environ.get("EMAIL_USE_TLS", "1") == "1"
EMAIL_TIMEOUT = 10
DEFAULT_FROM_EMAIL = os.environ.get("EMAIL_FROM") or "rlhf-loop@localhost"
# Who may read /metrics from elsewhere: Authorization: Bearer TOKEN. Processes of this machine may without one.
METRICS_TOKENS = [token for token in os.environ.get("METRICS_TOKENS", "").split(",") if token]
# What this machine is called among those that train; a container's own name is another at each start.
HOST_NAME = os.environ.get("HOST_NAME") or socket.gethostname()
if not re.fullmatch(r"[\w.-]{1,200}", HOST_NAME):
    raise ImproperlyConfigured("HOST_NAME: letters, digits, dots and hyphens alone")
# What deploys a version to an endpoint of the kind external: its name and directory are added as arguments.
DEPLOY_COMMAND = read("DEPLOY_COMMAND", "", shlex.split, "a command with its quotation marks closed")
# Where what trainers made is kept beside this machine, by any address that fsspec knows; empty: on this machine alone.
ARTIFACT_STORE = os.environ.get("ARTIFACT_STORE", "")
# How many of a project's newest versions and rounds keep their weights, beside those that are pinned or needed.
KEEP_VERSIONS = read("KEEP_VERSIONS", "5", whole(1, 10**6), "a whole number, 1 or more")
# How long a version that went live is watched, unless a recipe says another time; 0 watches none.
SOAK_MINUTES = read("SOAK_MINUTES", "15", number(0, 7 * 24 * 60), "minutes, from 0 to a week's 10080")
DEBUG = os.environ.get("DEBUG") == "1"
BASE_MODEL = os.environ.get("BASE_MODEL", str(DATA_DIR / "models" / "base"))
# Folders below which a page may name a model made elsewhere, beside DATA_DIR/models.
MODEL_DIRS = [Path(folder) for folder in os.environ.get("MODEL_DIRS", "").split(os.pathsep) if folder]

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.postgres",
    "django.contrib.humanize",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "csp",
    "django_htmx",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "feedback_app.accounts",
    "feedback_app.projects",
    "feedback_app.notifications",
    "feedback_app.serving",
    "feedback_app.annotation",
    "feedback_app.datasets",
    "feedback_app.rounds",
    "feedback_app.operations",
    "feedback_app.embedded",
]

MIDDLEWARE = [
    "feedback_app.health.health_middleware",
    "feedback_app.requests.RequestMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "feedback_app.content_policy.ContentPolicyMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "feedback_app.accounts.preferences.TimezoneMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "feedback_app.accounts.preferences.LanguageMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "frontend" / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "django.template.context_processors.i18n",
                "csp.context_processors.nonce",
                "feedback_app.accounts.preferences.appearance",
                "feedback_app.projects.pages.rooms",
            ]
        },
    }
]

ROOT_URLCONF = "feedback_app.urls"
WSGI_APPLICATION = "feedback_app.wsgi.application"
ASGI_APPLICATION = "feedback_app.asgi.application"
AUTH_USER_MODEL = "accounts.User"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
LOGIN_URL = "/accounts/login/"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "/accounts/login/"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]

LANGUAGE_CODE = "en"
LANGUAGES = available_languages()
LOCALE_PATHS = [LANGUAGES_DIR]
TIME_ZONE = "UTC"
USE_TZ = True

STATIC_URL = "static/"
STATICFILES_DIRS = [BASE_DIR / "frontend" / "static"]
STATIC_ROOT = DATA_DIR / "static"
WHITENOISE_USE_FINDERS = not PRODUCTION
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "feedback_app.static_files.HashedModulesStorage"
        if PRODUCTION
        else "django.contrib.staticfiles.storage.StaticFilesStorage"
    },
}

CACHES = {"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": REDIS_URL}}
# The database is the truth and the cache only spares the read, so a flushed Valkey signs nobody out.
SESSION_ENGINE = "django.contrib.sessions.backends.cached_db"
SESSION_COOKIE_AGE = 14 * 24 * 3600
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = PRODUCTION
CSRF_COOKIE_SECURE = PRODUCTION
CSRF_TRUSTED_ORIGINS = [origin for origin in os.environ.get("CSRF_TRUSTED_ORIGINS", "").split(",") if origin]
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if PRODUCTION else None
SECURE_HSTS_SECONDS = 31536000 if PRODUCTION else 0
X_FRAME_OPTIONS = "DENY"
# TLS ends at a proxy, which redirects (W008); whether every subdomain is HTTPS is not ours to say (W005, W021).
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W008", "security.W021"]
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF, NONCE],
        "style-src": [SELF, NONCE],
        "img-src": [SELF, "data:"],
        "font-src": [SELF],
        "connect-src": [SELF],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
        "base-uri": [NONE],
        "manifest-src": [SELF],
    }
}

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "feedback_app.accounts.authentication.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "URL_FORMAT_OVERRIDE": None,  # ?format= names what a file holds
    "UNAUTHENTICATED_USER": "django.contrib.auth.models.AnonymousUser",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "RLHF loop",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SCHEMA_PATH_PREFIX": "/api/v1",
    # Its page comes from us whole: others' hosts are closed to it, and a machine may have no network.
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
}
DATA_UPLOAD_MAX_MEMORY_SIZE = 16 * 2**20
FILE_UPLOAD_MAX_MEMORY_SIZE = 2 * 2**20

CELERY_BROKER_URL = REDIS_URL
CELERY_TASK_DEFAULT_QUEUE = "ctl"
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TIMEZONE = "UTC"
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_TRANSPORT_OPTIONS = {"visibility_timeout": 3600, "socket_keepalive": True, "health_check_interval": 25}
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_SEND_TASK_EVENTS = True
CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT = 10
# Every task only rings a bell for a row that waits; losing or doubling one is harmless.
CELERY_TASK_ROUTES = {f"feedback_app.rounds.tasks.{name}": {"queue": "gpu"} for name in ("kick", "try_recipe")}
CELERY_BEAT_SCHEDULER = "feedback_app.beat:SteadyScheduler"
CELERY_BEAT_SCHEDULE: dict[str, dict[str, Any]] = {
    name: {"task": f"feedback_app.{app}.tasks.{name}", "schedule": seconds, "options": {"again": True}}
    for app, name, seconds in (
        ("rounds", "tick_rounds", 10.0),
        ("rounds", "tick_queue", 15.0),
        ("rounds", "tick_serving", 15.0),
        ("rounds", "tick_retention", 3600.0),
        ("notifications", "deliver", 10.0),
        ("datasets", "ring_waiting_imports", 30.0),
        ("datasets", "mark_dataset_versions", 300.0),
        ("datasets", "index_new_examples", 60.0),
    )
}

# line for people, keyvalue or json for what collects logs.
LOG_FORMAT = read("LOG_FORMAT", "line", one_of(*FORMATTERS), f"one of {', '.join(FORMATTERS)}")
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
LOG_LEVEL = read("LOG_LEVEL", "INFO", one_of(*LEVELS), f"one of {', '.join(LEVELS)}")
# Workers say things as everybody does, not in a form of Celery's own.
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": FORMATTERS,
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": LOG_FORMAT}},
    "root": {
        "handlers": ["stderr"],
        "level": LOG_LEVEL,
    },
    # A line a request of our own clients would drown what an operator looks for.
    # (huggingface_hub speaks httpx2.)
    "loggers": {name: {"level": "WARNING"} for name in ("httpx", "httpcore", "httpx2", "httpcore2")},
}
