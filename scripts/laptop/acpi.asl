DefinitionBlock ("", "SSDT", 2, "CELLD", "LAPTOP", 1)
{
    Scope (\_SB)
    {
        OperationRegion (CMOS, SystemIO, 0x70, 2)
        Field (CMOS, ByteAcc, NoLock, Preserve) { INDX, 8, DATA, 8 }
        Method (CELL, 1, Serialized) { INDX = Arg0  Return (DATA) }

        Device (LID0) {
            Name (_HID, "PNP0C0D")
            Method (_LID) { Return (CELL (0x50) == 0) }
        }
        Device (AC0) {
            Name (_HID, "ACPI0003")
            Name (_PCL, Package () { \_SB })
            Method (_PSR) { Return (CELL (0x51) == 0) }
            Method (_STA) { Return (0x0F) }
        }
        Device (BAT0) {
            Name (_HID, "PNP0C0A")
            Name (_UID, 1)
            Name (_PCL, Package () { \_SB })
            Method (_STA) { Return (0x1F) }
            Method (_BIF) { Return (Package () { 1, 5000, 5000, 1, 12000, 500, 100, 10, 10, "celld", "1", "LION", "celld" }) }
            Name (BST0, Package () { 0, 1000, 5000, 12000 })
            Method (_BST, 0, Serialized) {
                If (CELL (0x51) == 0) { BST0 [0] = 0 } Else { BST0 [0] = 1 }
                Local0 = CELL (0x52)
                BST0 [2] = (100 - Local0) * 50
                Return (BST0)
            }
        }
    }
}
