package cellproto

// view is what a schema comes to: where its references lead, and whether null is allowed besides.
type view struct {
	*schemaNode
	types  jsonTypes
	null   bool
	away   bool          // the reference leads where this package does not look
	beside []*schemaNode // those that say something beside a reference that was followed
}

func look(n *schemaNode) (v view) {
	for range maxRefs {
		switch {
		case n.bad == nil && n.dangling():
			v.schemaNode = &schemaNode{bad: Errorf("$ref", BadInput, "%.80q is not there", n.ref)}
			return v
		case n.bad == nil && n.ref != "":
			if !n.refersOnly() {
				v.beside = append(v.beside, n)
			}
			if n.target == nil {
				v.schemaNode, v.types, v.away = anyNode, anyType, true
				return v
			}
			n = n.target
		case n.orNull != nil:
			n, v.null = n.orNull, true
		default:
			v.schemaNode, v.types = n, n.types
			if v.null {
				v.types |= typeNull
			}
			return v
		}
	}
	v.schemaNode, v.types, v.away = anyNode, anyType, true
	return v
}

// refersOnly says that nothing is asked beside the reference.
func (n *schemaNode) refersOnly() bool {
	return n.types == anyType && len(n.rest) == 0 && n.listed == nil && n.properties == nil && n.required == nil &&
		n.items == nil && n.additional == nil
}
