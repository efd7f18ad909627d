package patch

// For the tests, which are in a package of their own since they need cellproto/patch/delta, too.
type (
	Body     = body
	Envelope = envelope
)

const (
	Skippable = skippable
	FrameHead = frameHead
)

var (
	EncMode  = encMode
	DecMode  = decMode
	Preimage = preimage
)

func (h Header) Body() Body   { return h.body() }
func (k Key) Marshal() []byte { return k.marshal() }
