package cellproto

import "bytes"

// A hello is written and read on the way of the first call of each connection, by three processes one after the other that
// have mostly just woken up. It has a codec of its own for that, which tests compare with fxamacker/cbor; what is not written
// as this one does is read by that.

const cborArray = 4 << 5

// appendTo appends h as a canonical map. Versions must be set.
func (h *Hello) appendTo(b []byte) []byte {
	n := 1
	for _, set := range [...]bool{
		len(h.Schema) > 0, len(h.Codecs) > 0, len(h.Capabilities) > 0, len(h.Functions) > 0, h.Auth != "", len(h.Nonce) > 0,
		h.Agent != "", h.Cell != "", h.Peer != "", len(h.Slow) > 0, len(h.Token) > 0, len(h.MadeFor) > 0,
	} {
		if set {
			n++
		}
	}
	b = appendHead(b, cborMap, uint64(n))
	b = appendNumbers(b, 1, h.Versions)
	b = appendBytesField(b, 2, h.Schema)
	b = appendNumbers(b, 3, h.Codecs)
	b = appendTexts(b, 4, h.Capabilities)
	b = appendTexts(b, 5, h.Functions)
	b = appendTextField(b, 6, h.Auth)
	b = appendBytesField(b, 7, h.Nonce)
	b = appendTextField(b, 8, h.Agent)
	b = appendTextField(b, 9, h.Cell)
	b = appendTextField(b, 10, h.Peer)
	b = appendNumbers(b, 11, h.Slow)
	b = appendBytesField(b, 12, h.Token)
	return appendBytesField(b, 13, h.MadeFor)
}

func appendTextField(b []byte, key byte, s string) []byte {
	if s == "" {
		return b
	}
	return appendText(append(b, key), s)
}

func appendNumbers(b []byte, key byte, list []uint) []byte {
	if len(list) == 0 {
		return b
	}
	b = appendHead(append(b, key), cborArray, uint64(len(list)))
	for _, v := range list {
		b = appendHead(b, cborUint, uint64(v))
	}
	return b
}

func appendTexts(b []byte, key byte, list []string) []byte {
	if len(list) == 0 {
		return b
	}
	b = appendHead(append(b, key), cborArray, uint64(len(list)))
	for _, s := range list {
		b = appendText(b, s)
	}
	return b
}

// parse reads what appendTo writes into h, which is zero. It reports false for anything else, good or bad.
func (h *Hello) parse(data []byte) bool {
	r := headerReader{data: data}
	major, n := r.head()
	if major != cborMap || n > 13 {
		return false
	}
	last := uint64(0)
	for range n {
		major, key := r.head()
		if r.err != nil || major != cborUint || key <= last || key > 13 {
			return false
		}
		last = key
		h.parseField(&r, key)
		if r.err != nil {
			return false
		}
	}
	return r.err == nil && len(r.data) == 0
}

func (h *Hello) parseField(r *headerReader, key uint64) {
	text := func() string { return string(r.bytes("a text", cborText, 1, MaxArgs)) }
	data := func() []byte { return bytes.Clone(r.bytes("bytes", cborBytes, 1, MaxArgs)) }
	switch key {
	case 1:
		h.Versions = r.numbers(maxHelloList)
	case 2:
		h.Schema = data()
	case 3:
		h.Codecs = r.numbers(maxHelloList)
	case 4:
		h.Capabilities = r.texts(maxHelloList)
	case 5:
		h.Functions = r.texts(MaxFunctions)
	case 6:
		h.Auth = text()
	case 7:
		h.Nonce = data()
	case 8:
		h.Agent = text()
	case 9:
		h.Cell = text()
	case 10:
		h.Peer = text()
	case 11:
		h.Slow = r.numbers(MaxFunctions)
	case 12:
		h.Token = data()
	case 13:
		h.MadeFor = data()
	}
}

// list reads the head of a list of at most limit items, which has at least one, and gives how many it has. Each takes a byte.
func (r *headerReader) list(limit int) int {
	major, n := r.head()
	if r.err == nil && (major != cborArray || n == 0 || n > uint64(min(limit, len(r.data)))) {
		r.fail("not a list of 1 to %d", limit)
	}
	if r.err != nil {
		return 0
	}
	return int(n)
}

func (r *headerReader) numbers(limit int) []uint {
	list := make([]uint, r.list(limit))
	for i := range list {
		major, v := r.head()
		if list[i] = uint(v); r.err == nil && (major != cborUint || uint64(list[i]) != v) {
			r.fail("a number is none, or too large")
		}
	}
	return list
}

func (r *headerReader) texts(limit int) []string {
	list := make([]string, r.list(limit))
	for i := range list {
		list[i] = string(r.bytes("a text", cborText, 0, MaxArgs))
	}
	return list
}
