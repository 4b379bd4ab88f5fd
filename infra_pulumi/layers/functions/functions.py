"""The functions of one stack: what runs before them, themselves, and what calls them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pulumi

from infra_pulumi.layers.functions.environment import url
from infra_pulumi.layers.functions.event_sources import make_kafka_source, make_sweep
from infra_pulumi.layers.functions.jobs import hold_operate_pod, migrate, set_kafka_acls
from infra_pulumi.layers.functions.services import make_disruption_budget, make_service, map_domain
from infra_pulumi.parts import FUNCTIONS, OPERATE, PROJECT, SWEEPS

if TYPE_CHECKING:
    from infra_pulumi.layers.functions.dependencies import Dependencies
    from infra_pulumi.layers.registry import ImagesConfig


class Functions(pulumi.ComponentResource):
    """The functions of one stack."""

    urls: dict[str, str]

    def __init__(self, name: str, images: ImagesConfig, deps: Dependencies) -> None:
        super().__init__("saldo:layer:Functions", name, None, deps.opts)
        operate = images.of(OPERATE)
        jobs = [migrate(deps, self, operate)]
        if deps.kafka.acl_statements:
            jobs.append(set_kafka_acls(deps, self, operate))
        hold_operate_pod(deps, self, operate, jobs)
        services = {f.name: make_service(deps, self, f, images.of(f.name), jobs) for f in FUNCTIONS}
        for function in FUNCTIONS:
            make_disruption_budget(deps, self, function)
        make_kafka_source(deps, self, services[PROJECT.name])
        for sweep in SWEEPS:
            make_sweep(deps, self, sweep, services[sweep.function.name])
        self.urls = {}
        for function in FUNCTIONS:
            if function.host is not None:
                map_domain(deps, self, function, services[function.name])
                self.urls[function.name] = url(deps.stack, function)
        self.register_outputs({"urls": self.urls})
