"""Threads of the system's beside greenlets, in a process that gevent has patched."""

import subprocess
import sys
import textwrap


def test_a_thread_that_logs_waits_for_no_greenlet() -> None:
    """The lock of a log's handler is a greenlet's while that writes, which may take: it stopped renewals."""
    program = """
        from gevent import monkey
        monkey.patch_all()
        import io, logging
        import gevent
        from jobguard.session import native_thread, write_log

        written, went_on = io.StringIO(), []
        handler = logging.StreamHandler(written)
        log = logging.getLogger("beside")
        log.addHandler(handler)

        def target():
            write_log(log.error, "from a %s", "thread", exc_info=ValueError("why"))
            went_on.append(True)

        with gevent.Timeout(30):
            handler.acquire()
            native_thread(target, "a thread").start()
            while not went_on:
                gevent.sleep(0.01)
            assert written.getvalue() == ""
            handler.release()
            while "ValueError: why" not in written.getvalue():
                gevent.sleep(0.01)
        assert written.getvalue().startswith("from a thread")
        write_log(log.warning, "from a greenlet")
        assert written.getvalue().endswith("from a greenlet\\n")
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=100)


def test_a_thread_whose_starter_is_gone_logs_all_the_same_and_goes_on() -> None:
    """A session may be made in a thread of gevent's that ends before it: its renewals must not."""
    program = """
        from gevent import monkey
        monkey.patch_all()
        import io, logging, time
        import gevent
        from gevent import threadpool
        from jobguard.session import native_thread, write_log

        written, hubs, went_on = io.StringIO(), [], []
        log = logging.getLogger("beside")
        log.addHandler(logging.StreamHandler(written))
        original_sleep = monkey.get_original("time", "sleep")

        def target():
            while not hubs[0].dead:
                original_sleep(0.01)
            write_log(log.error, "from a thread")
            went_on.append(True)

        def start():
            hubs.append(gevent.get_hub())
            native_thread(target, "a thread").start()

        with gevent.Timeout(30):
            pool = threadpool.ThreadPool(1)
            pool.apply(start)
            pool.kill()
            while not went_on or "from a thread" not in written.getvalue():
                gevent.sleep(0.01)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=100)
