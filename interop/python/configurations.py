"""An operator's configurations at the hub: each says what devices are to have that
a condition finds."""

import unittest

from azure.iot.hub import IoTHubConfigurationManager, IoTHubRegistryManager
from azure.iot.hub.models import (
    Configuration, ConfigurationContent, ConfigurationMetrics, ConfigurationQueriesTestInput, Twin,
)

import claims
import service
from kinds import until
from registry import key

CONNECTION = (service.DATA / "hub.connection").read_text().strip()


def configuration(name, site, rate):
    """Sets the rate of the devices of a site."""
    return Configuration(
        id=name, schema_version="1.0", priority=10, labels={"owner": "operator"}, target_condition=f"tags.site = '{site}'",
        content=ConfigurationContent(device_content={"properties.desired.rate": rate}),
        metrics=ConfigurationMetrics(queries={"fast": f"SELECT deviceId FROM devices WHERE properties.reported.rate = {rate}"}))


class Configurations(unittest.TestCase):
    def setUp(self):
        self.hub, self.configurations = IoTHubRegistryManager(CONNECTION), IoTHubConfigurationManager(CONNECTION)

    def refused(self, status, call, *args):
        with self.assertRaises(Exception) as caught:
            call(*args)
        self.assertEqual(caught.exception.response.status_code, status)

    def test_life(self):
        """a configuration is created, read, listed, changed only as it was seen, and deleted"""
        name = service.unique("life")
        wanted = configuration(name, "nowhere", 5)
        created = self.configurations.create_configuration(wanted)
        read = self.configurations.get_configuration(name)
        self.assertEqual((read.priority, read.labels, read.target_condition, read.content.device_content, read.metrics.queries, read.etag),
                         (10, wanted.labels, wanted.target_condition, wanted.content.device_content, wanted.metrics.queries, created.etag))
        self.refused(409, self.configurations.create_configuration, wanted)
        self.assertIn(name, [c.id for c in self.configurations.get_configurations(100)])
        wanted.priority = 11
        changed = self.configurations.update_configuration(wanted, read.etag)
        self.assertEqual(changed.priority, 11)
        self.refused(412, self.configurations.update_configuration, wanted, read.etag)
        self.refused(412, self.configurations.delete_configuration, name, read.etag)
        self.configurations.delete_configuration(name, changed.etag)
        self.refused(404, self.configurations.get_configuration, name)

    def test_reach(self):
        """a configuration reaches the devices that its condition finds, and counts them"""
        name, site = service.unique("reach"), service.unique("site")
        inside, outside = service.unique("inside"), service.unique("outside")
        for device in (inside, outside):
            self.hub.create_device_with_sas(device, key(b"p"), key(b"s"), "enabled")
        self.hub.update_twin(inside, Twin(tags={"site": site}), "*")
        self.configurations.create_configuration(configuration(name, site, 7))
        self.addCleanup(self.configurations.delete_configuration, name)
        until("it is at the device", lambda: self.hub.get_twin(inside).properties.desired.get("rate") == 7)
        counted = {"targetedCount": 1, "appliedCount": 1}
        until("it is counted", lambda: self.configurations.get_configuration(name).system_metrics.results == counted)
        self.assertNotIn("rate", self.hub.get_twin(outside).properties.desired)

    def test_queries(self):
        """the queries of a configuration are tried out before it is made"""
        tried = self.configurations.test_configuration_queries(ConfigurationQueriesTestInput(
            target_condition="tags.site =", custom_metric_queries={"good": "SELECT deviceId FROM devices", "bad": "SELECT"}))
        self.assertTrue(tried.target_condition_error)
        self.assertEqual(list(tried.custom_metric_query_errors), ["bad"])
        tried = self.configurations.test_configuration_queries(ConfigurationQueriesTestInput(target_condition="tags.site = 'a'"))
        self.assertFalse(tried.target_condition_error)

    def test_apply(self):
        """an operator gives one IoT Edge device what it is to run"""
        device = service.unique("edge")
        self.hub.create_device_with_sas(device, key(b"p"), key(b"s"), "enabled", iot_edge=True)
        agent = {"schemaVersion": "1.1", "runtime": {"type": "docker", "settings": {}}, "systemModules": {},
                 "modules": {"camera": {"type": "docker", "settings": {"image": "camera"}}}}
        hub = {"schemaVersion": "1.1", "routes": {}, "storeAndForwardConfiguration": {"timeToLiveSecs": 7200}}
        self.configurations.apply_configuration_on_edge_device(device, ConfigurationContent(modules_content={
            "$edgeAgent": {"properties.desired": agent}, "$edgeHub": {"properties.desired": hub}, "camera": {"properties.desired": {"zoom": 2}}}))
        self.assertEqual(self.hub.get_module_twin(device, "camera").properties.desired["zoom"], 2)
        running = self.hub.get_module_twin(device, "$edgeAgent").properties.desired["modules"]
        self.assertEqual(running["camera"]["settings"]["image"], "camera")
        self.assertEqual(self.hub.get_module(device, "camera").managed_by, "iotEdge")


if __name__ == "__main__":
    claims.main("__main__")
