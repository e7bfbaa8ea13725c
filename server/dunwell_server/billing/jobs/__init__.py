"""What spans transactions in billing: the package run."""

from dunwell_server.billing.jobs.package_run import PackageExecution, PackageRunExecutor

__all__ = ["PackageExecution", "PackageRunExecutor"]
