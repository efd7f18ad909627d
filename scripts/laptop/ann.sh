# ~/.profile of the laptop's user, who is logged in at its screen.
(
	while [ ! -e /run/ann ]; do sleep 1; done
	cp -r /opt/celld/stranger ~/stranger && mkdir -p ~/work
	~/stranger/give -bin /opt/celld/bin -work ~/work -ask /run/ask -only desktop -events usb,ps2,virtio
	echo $? >/tmp/ann.status
) >/tmp/ann.out 2>&1 </dev/null &
