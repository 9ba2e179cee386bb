"""Django's ORM on psycopg 3, with the migrations of django.contrib.auth.

Without a transaction, QuerySet.iterator() uses a cursor WITH HOLD, which is session state: see the issue "Nothing leaks".
"""

import os
import threading

import django
import pytest
from django.conf import settings

settings.configure(
    DATABASES={"default": {
        "ENGINE": "django.db.backends.postgresql", "NAME": os.environ["PGDATABASE"], "USER": os.environ["PGUSER"],
        "PASSWORD": os.environ["PGPASSWORD"], "HOST": os.environ["PGHOST"], "PORT": os.environ["PGPORT"],
        # What docs/ref/databases of Django calls for with many requests: connections that are kept.
        "CONN_MAX_AGE": None, "CONN_HEALTH_CHECKS": True,
    }},
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth"],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField", USE_TZ=True, TIME_ZONE="Europe/Prague",
)
django.setup()

from django.contrib.auth.models import Group, Permission, User  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import IntegrityError, connection, models, transaction  # noqa: E402
from django.db.models import Count, F, Sum  # noqa: E402

DRIVER = "Django"


class Account(models.Model):
    owner = models.CharField(max_length=50, unique=True)
    balance = models.DecimalField(max_digits=12, decimal_places=2, default=0)
    opened = models.DateTimeField(auto_now_add=True)
    details = models.JSONField(default=dict)

    class Meta:
        app_label = "bank"


@pytest.fixture(scope="module", autouse=True)
def schema():
    call_command("migrate", verbosity=0)
    with connection.schema_editor() as editor:
        editor.create_model(Account)
    yield
    with connection.schema_editor() as editor:
        editor.delete_model(Account)
    call_command("migrate", "auth", "zero", verbosity=0)
    connection.close()


@pytest.fixture(autouse=True)
def no_accounts():
    Account.objects.all().delete()


@pytest.mark.smoke
def test_migrations_have_made_the_tables(direct):
    assert Permission.objects.filter(content_type__app_label="auth").count() == 12
    assert direct.execute("SELECT count(*) FROM django_migrations WHERE app = 'auth'").fetchone()[0] >= 12


@pytest.mark.smoke
def test_objects_are_created_read_updated_and_deleted(direct):
    Account.objects.bulk_create([Account(owner=f"owner {n}", balance=n, details={"n": [n]}) for n in range(500)], batch_size=100)
    assert Account.objects.filter(balance__lt=100).update(balance=F("balance") + 1) == 100
    assert Account.objects.get(details__n__0=42).owner == "owner 42"
    assert Account.objects.aggregate(total=Sum("balance"), count=Count("*")) == {"total": 124850, "count": 500}
    account, created = Account.objects.get_or_create(owner="owner 1", defaults={"balance": 9})
    assert (created, account.balance) == (False, 2)
    Account.objects.filter(owner__startswith="owner 4").delete()
    assert direct.execute("SELECT count(*) FROM bank_account").fetchone() == (389,)


def test_atomic_blocks_nest(direct):
    with transaction.atomic():
        Account.objects.create(owner="kept")
        with pytest.raises(IntegrityError), transaction.atomic():
            Account.objects.create(owner="undone")
            Account.objects.create(owner="kept")
        Account.objects.create(owner="kept too")
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        Account.objects.all().delete()
        1 / 0
    assert direct.execute("SELECT owner FROM bank_account ORDER BY owner").fetchall() == [("kept",), ("kept too",)]


def test_work_after_the_commit_sees_it(direct):
    seen = []
    with transaction.atomic():
        Account.objects.create(owner="new")
        transaction.on_commit(lambda: seen.append(direct.execute("SELECT count(*) FROM bank_account").fetchone()))
        assert seen == []
    assert seen == [(1,)]


@pytest.mark.smoke
def test_an_iterator_in_a_transaction_reads_a_cursor_on_the_server():
    Account.objects.bulk_create([Account(owner=f"owner {n}", balance=n) for n in range(3000)])
    with transaction.atomic():
        total = 0
        for number, account in enumerate(Account.objects.order_by("balance").iterator(chunk_size=100)):
            assert account.balance == number
            total += account.balance
            if number % 1000 == 0:
                Account.objects.filter(pk=account.pk).update(owner=f"seen {number}")
    assert total == sum(range(3000))


def test_rows_are_locked_by_concurrent_transfers():
    one, other = Account.objects.create(owner="one", balance=1000), Account.objects.create(owner="other", balance=1000)

    def transfer(source, target):
        for _ in range(15):
            with transaction.atomic():
                accounts = {a.pk: a for a in Account.objects.select_for_update().order_by("pk").filter(pk__in=[source, target])}
                accounts[source].balance -= 10
                accounts[target].balance += 10
                for account in accounts.values():
                    account.save()
        connection.close()

    threads = [threading.Thread(target=transfer, args=pair) for pair in [(one.pk, other.pk), (other.pk, one.pk), (one.pk, other.pk)]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    one.refresh_from_db()
    other.refresh_from_db()
    assert (one.balance, other.balance) == (850, 1150)


def test_many_to_many_relations_and_users():
    group, _ = Group.objects.get_or_create(name="clerks")
    group.permissions.set(Permission.objects.filter(codename__startswith="view_"))
    user = User.objects.create_user("anna", password="secret")
    user.groups.add(group)
    anna = User.objects.prefetch_related("groups__permissions").get(username="anna")
    assert anna.check_password("secret") and anna.has_perm("auth.view_user") and not anna.has_perm("auth.delete_user")
    user.delete()


def test_a_connection_whose_server_is_lost_is_replaced_for_the_next_request(admin):
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        admin.execute("SELECT pg_terminate_backend(%s, 10000)", cursor.fetchone())
    # What Django does between two requests.
    django.db.close_old_connections()
    assert Account.objects.count() == 0


def test_the_time_zone_of_the_connection_holds_in_every_transaction():
    for _ in range(15):
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_setting('TimeZone')")
            assert cursor.fetchone() == ("UTC",)
