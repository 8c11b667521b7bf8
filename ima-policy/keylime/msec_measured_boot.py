"""Measured boot policy for Keylime's verifier: a device has to have booted as a boot manifest says.

In verifier.conf, with this file where the verifier's Python finds it:

    measured_boot_imports = ["msec_measured_boot"]
    measured_boot_policy_name = msec-boot
    measured_boot_evaluate = always

`always`, since with `once` a device that was accepted may boot anything from then on.

The reference state is what `ima-policy reference --as keylime-boot` makes of boot manifests, and
nothing else is looked at. PCR by PCR the digests in the log have to be those of one of its boots, in
order, none missing and none more. What a log says beside them (kinds of events, names, data) is the
device's word and decides nothing.

Keylime compares the PCRs that `tpm2_eventlog` has replayed with the quote, and gives the policy the
events. Both are out of one text, in which the data of some events stand as they are: a device can write
events of its own there. So the events are replayed here once more, and have to lead to those PCRs.

Written for Keylime 7.14.3.
"""

import hashlib
import re
import typing

from keylime.failure import Component, Failure
from keylime.mba.elchecking import policies, tests
from keylime.mba.elparsing import tpm2_tools_elparser

NAME = "msec-boot"
SCHEMA = "msec-boot/keylime-boot/1"
# Of this bank are the digests of boot manifests.
BANK = "sha256"
# The PCRs that firmware, U-Boot and nobody after them extend (boot_aggregate is over the same). Those
# that a log does not extend have to be zero in the quote.
PCRS = frozenset(range(10))

DIGEST = re.compile("[0-9a-f]{64}")
# Locality 0: the PCRs begin with zeros (TCG PC Client PFP 1.06, 10.4.5.3). TF-A writes it, and
# `tpm2_eventlog` takes it apart or, in older versions, does not.
LOCALITY_0 = ({"StartupLocality": 0}, b"StartupLocality\0\0".hex())

Measured = typing.Dict[int, typing.List[str]]
# Name of the component and its digest.
Expected = typing.Dict[int, typing.List[typing.Tuple[str, str]]]


class Unusable(Exception):
    """A log, or a reference state, that is not of the form it should be of"""


def fields(what: str, value: typing.Any, names: typing.Set[str]) -> typing.List[typing.Any]:
    """The values of a dict that has exactly these fields, sorted by name"""
    if not isinstance(value, dict) or set(value) != names:
        raise Unusable(f"{what} has to have the fields {sorted(names)} and no others")
    return [value[name] for name in sorted(names)]


def pcr_of(what: str, value: typing.Any) -> int:
    """A PCR that is looked at"""
    if type(value) is not int or value not in PCRS:  # True is an int, too
        raise Unusable(f"{what} is of PCR {value!r}: known are PCR {min(PCRS)} to {max(PCRS)}")
    return value


def digest_of(what: str, value: typing.Any) -> str:
    """A digest, in hexadecimal digits"""
    if not isinstance(value, str) or not DIGEST.fullmatch(value):
        raise Unusable(f"{what} has no {BANK} digest")
    return value


class Boot:
    """What an image measures"""

    def __init__(self, boot: typing.Any):
        board, events, image = fields("a boot of the reference state", boot, {"image", "board", "events"})
        if not isinstance(events, list) or not events:
            raise Unusable(f"the boot of {image!r} has no list of events")
        self.name = f"{image} ({board})"
        self.expected: Expected = {}
        for event in events:
            component, digest, pcr = fields("an event of the reference state", event, {"pcr", "component", "digest"})
            what = f"{component!r} of the reference state"
            self.expected.setdefault(pcr_of(what, pcr), []).append((component, digest_of(what, digest)))

    def why_not(self, measured: Measured) -> str:
        """What is not as it should be; empty: nothing"""
        for pcr in sorted(PCRS):
            expected, found = self.expected.get(pcr, []), measured.get(pcr, [])
            for (component, digest), its in zip(expected, found):
                if its != digest:
                    return f"PCR {pcr}, {component!r}: expected {digest}, measured {its}"
            if len(found) < len(expected):
                return f"PCR {pcr}: {expected[len(found)][0]!r} is missing"
            if len(found) > len(expected):
                return f"PCR {pcr}: something more was measured, {found[len(expected)]}"
        return ""


def replayed(measured: Measured, pcr: int) -> int:
    """What the digests of a PCR lead to"""
    value = bytes(32)
    for digest in measured.get(pcr, []):
        value = hashlib.sha256(value + bytes.fromhex(digest)).digest()
    return int.from_bytes(value, "big")


def measured_by(log: typing.Any) -> Measured:
    """The digests of a log that the parser has read, by PCR"""
    if not isinstance(log, dict) or not isinstance(log.get("events"), list):
        raise Unusable("there is no log with events")
    head, *events = log["events"] or [None]
    if not isinstance(head, dict) or head.get("EventType") != "EV_NO_ACTION" or "SpecID" not in head:
        raise Unusable("the log does not begin with a specification ID event")
    measured: Measured = {}
    for event in events:
        if not isinstance(event, dict):
            raise Unusable("an event of the log is none")
        what = f"event {event.get('EventNum')!r} of the log"
        pcr = pcr_of(what, event.get("PCRIndex"))
        if event.get("EventType") == "EV_NO_ACTION":
            # Not extended, so nobody vouches for it.
            if measured or pcr != 0 or event.get("Event") not in LOCALITY_0:
                raise Unusable(f"{what} extends nothing, and is not known")
            continue
        digests = event.get("Digests")
        of_bank = [
            digest.get("Digest")
            for digest in (digests if isinstance(digests, list) else [])
            if isinstance(digest, dict) and digest.get("AlgorithmId") == BANK
        ]
        if len(of_bank) != 1:
            raise Unusable(f"{what} has {len(of_bank)} {BANK} digests")
        measured.setdefault(pcr, []).append(digest_of(what, of_bank[0]))
    banks = log.get("pcrs")
    pcrs = banks.get(BANK) if isinstance(banks, dict) else None
    if not isinstance(pcrs, dict):
        raise Unusable(f"the log has no {BANK} bank")
    for pcr in sorted(PCRS):
        if replayed(measured, pcr) != pcrs.get(str(pcr), 0):
            raise Unusable(f"the events do not lead to the value of PCR {pcr} that the log was replayed to")
    return measured


class KnownBoot(tests.Test):
    """Tests whether a log is that of one of some boots"""

    def __init__(self, boots: typing.Iterable[Boot]):
        super().__init__()
        self.boots = list(boots)

    def why_not(self, globs: tests.Globals, subject: tests.Data) -> str:
        try:
            measured = measured_by(subject)
        except Unusable as error:
            return str(error)
        reasons = []
        for boot in self.boots:
            reason = boot.why_not(measured)
            if not reason:
                return ""
            reasons.append(f"not {boot.name}: {reason}")
        return "; ".join(reasons)


class KnownBoots(policies.Policy):
    """The policy: one of the boots in the reference state"""

    def get_relevant_pcrs(self) -> typing.FrozenSet[int]:
        return PCRS

    def refstate_to_test(self, refstate: policies.RefState) -> tests.Test:
        boots, schema = fields("the reference state", refstate, {"schema", "boots"})
        if schema != SCHEMA:
            raise Unusable(f"the reference state's schema is {schema!r}, and {SCHEMA!r} is known")
        if not isinstance(boots, list) or not boots:
            raise Unusable("the reference state has no boots")
        return KnownBoot(Boot(boot) for boot in boots)


def bootlog_parse(bootlog_b64: typing.Optional[str], hash_alg: str) -> typing.Tuple[typing.Any, ...]:
    """Parses as Keylime does, and refuses a quote of another bank than that of the reference state

    Of a log with several banks Keylime compares the one that was quoted; the digests that the policy
    sees in another are nobody's."""
    if bootlog_b64 and hash_alg != BANK:
        failure = Failure(Component.MEASURED_BOOT, ["parser"])
        failure.add_event("bank", f"{NAME} knows {BANK}, and {hash_alg} was quoted", True)
        return {}, None, {}, failure
    return tpm2_tools_elparser.bootlog_parse(bootlog_b64, hash_alg)


policies.register(NAME, KnownBoots())
