package ledger

import "testing"

// What a host has signed itself and knows no more is told from all else that comes in, whichever of the two it is.
func TestLostEntriesAreKnown(t *testing.T) {
	r := Receipt{Net: testNet, Consumer: pub(1), Provider: pub(2), N: 5, Credit: 500, Est: EstTable, MeterV: 1}
	signed := must1[*Signed](t)(SealReceipt(r, testKey(1), RoleConsumer))
	claim := must1[*Signed](t)(SealReceipt(r, testKey(2), RoleProvider))
	signed.ProviderSig = claim.ProviderSig
	entry := wire(t, signed)
	for name, c := range map[string]struct {
		self byte
		has  *Signed
		lost bool
	}{
		"its consumer":                      {1, nil, true},
		"its provider":                      {2, nil, true},
		"its provider, which has billed it": {2, claim, false},
		"a third":                           {3, nil, false},
	} {
		b := NewBook(testConfig(c.self, 9))
		if c.has != nil {
			if r := b.Ingest(nowMS, wire(t, c.has)); r.Verdict != Stored {
				t.Fatal(r.Verdict)
			}
		}
		if r := b.Ingest(nowMS, entry); r.Verdict != Stored || r.Lost != c.lost {
			t.Errorf("%s: %s, lost %v", name, r.Verdict, r.Lost)
		}
	}
}
