from openledger.flows.money.verify.bundle import read_bundle
from openledger.flows.money.verify.full import verify_full
from openledger.flows.money.verify.export import open_export
from openledger.flows.money.verify.public import verify_bundle
from openledger.flows.money.verify.recompute import exported_state, find_base, recompute
from openledger.flows.money.verify.audit import audit, Retraining

def test_first(files, tmp_path):
    import time
    print(len(files.public), len(files.full), len(files.drawn))
    verify_bundle(files.full, files.anchors)
    b = read_bundle(files.full)
    print(verify_full(b, files.anchors, {}))
    d = read_bundle(files.drawn)
    print(verify_full(d, files.anchors, {}))
    ex = open_export(files.export, b.receipt, files.anchors)
    st = exported_state(b, ex)
    print(verify_full(b, files.anchors, {ex.body.release.number: st}))
    base = find_base(ex.body.release.base, [files.base], "float32")
    print(b.receipt.statement.body.attribution, b.receipt.statement.body.members[0].gain)
    print(recompute(b, ex, base))
    ex = open_export(files.texts, b.receipt, files.anchors)
    t = time.process_time()
    print(audit([b], ex, base, Retraining(3, 2), tmp_path))
    print(time.process_time() - t)
