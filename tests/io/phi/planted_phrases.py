"""Made-up phrases that identify a person, by kind: one a line, each with everything that its kind needs.

They were written from the categories of 45 CFR 164.514(b)(2) and from what letters and reports of the languages of the
guide look like, not from the patterns. `BLIND` is what the guide says is not seen.
"""

from __future__ import annotations


def lines(text: str) -> list[str]:
    return [line.strip().replace("\\n", "\n") for line in text.splitlines() if line.strip()]


PLANTED = {
    "dates": lines("""
        2019-03-05T10:33:00
        2019-03-05 10:33
        acquired 2019/3/5
        2019.03.05
        20190305T103300
        5. 3. 2019
        05.03.19
        vom 5.3.19
        am 12.3. operiert
        5 / 3 / 2019
        05-03-2019
        05–03–2019
        12\u00a0March\u00a02019
        12  March  2019
        12 March\\n2019
        12‑Mar‑2019
        may 5, 2019
        on march 3rd
        mar 3 2019
        MAY 5 2019
        5 may 2019
        5th of may
        the fifth of March 2019
        March the third
        05MAR2019
        5-Mar-19
        05/MAR/2019
        2019-Mar-05
        2019 March 5
        March 5-7, 2019
        5.III.2019
        seen on 3/12 at night
        Comparison: 3/12/19
        Feb 29th
        am 12. März 2019
        12. Maerz 2019
        den 3. Mai
        3. Okt. 2018
        le 1er mars
        le 12 février 2019
        12 févr. 2019
        el 5 de mayo
        5 de mayo de 2019
        5/mayo/2019
        12 ene 2019
        il 5 maggio 2019
        dell'8 marzo
        1º de março
        5 de outubro de 2018
        12 out 2019
        op 5 maart 2019
        3 mei 2019
        2019年3月5日
        2019 年 3 月 5 日
        ３月５日
        三月五日入院
        2019년 3월 5일
        ٢٠١٩/٠٣/٠٥
    """),
    "births": lines("""
        DOB: 1961
        D.O.B. 13/5/1937
        born in 1937
        born May 1961
        Birthday: 3/61
        geb. 13.5.1937
        geboren am 3. Mai
        Geburtsdatum: 1937
        née le 3 mai 1937
        date de naissance : 1937
        DDN 1937
        fecha de nacimiento: 1937
        F. nac.: 1937
        nacida en 1937
        nato il 3.5.1937
        data di nascita 1937
        data de nascimento: 1937
        nascido em 1937
        geboortedatum: 1937
        出生日期：1937
        出生于1937
    """),
    "ages": lines("""
        92F
        92M with cough
        92 y/o
        92 y.o. man
        92yo
        92yrs old
        97-y-o
        age=97
        age 97
        Age : 97
        aged 101
        92/F
        M/95
        female, 93
        a ninety-two-year-old man
        nonagenarian
        a woman in her nineties
        centenarian
        92 ans
        âgée de 97 ans
        âge : 97
        92 Jahre
        97-jähriger Patient
        Alter: 93
        92 años
        edad: 97
        92 anni
        età: 97
        92 anos
        idade: 97
        92 jaar
        92岁
        年龄：95
        097Y
    """),
    "numbers to call": lines("""
        call 555-1234
        call (555) 123-4567
        555.123.4567
        555 123 4567
        +1-555-123-4567
        +44 20 7946 0958
        0044 20 7946 0958
        020 7946 0958
        07700 900123
        06 12 34 56 78
        06.12.34.56.78
        +33 6 12 34 56 78
        0511 532-1234
        0511/5321234
        (0511) 532 1234
        Tel.: 532-1234
        Tel. 0511 5321234
        Handy: 0171 2345678
        Durchwahl 1234
        612 34 56 78
        Teléfono: 912 345 678
        móvil 612345678
        +39 06 1234 5678
        cellulare: 347 123 4567
        (11) 91234-5678
        telefone: 3123-4567
        telefoon 020-1234567
        电话：010-12345678
        手机 138 1234 5678
        pager 1234
        bleep 4521
        ext. 4567
        x 4567 ext 4567
        reached at 555-1234
        fax 555 1234
        Phone number is 555-1234
    """),
    "addresses on the net": lines("""
        jane.doe@hospital.org
        JANE@CLINIC.CO.UK
        müller@klinik.de
        jane.doe (at) hospital.org
        jane [at] clinic [dot] org
        https://portal.example/p/123
        http://10.1.2.3/viewer
        www.janedoe.com
        ftp://pacs.hospital.org/x
        janedoe.com/films
        192.168.10.25
        IP 10.0.0.7
        fe80:0:0:0:202:b3ff:fe1e:8329
        00:1B:44:11:3A:B7
    """),
    "record numbers": lines("""
        MRN: 12345
        MRN 00123
        mrn#12345
        MRN\\n123456
        Medical record number 123456
        Hosp No K123456
        Hospital No: 12345
        Hospital number K12345
        Unit no. 123456
        URN 123456
        NHI ABC1234
        CHI: 0101501234
        Acc 19-12345
        ACC 19-12345
        Acc#: 123456
        Accession AB-12345
        S19-12345 A1
        SP-19-12345
        Specimen no. 4711
        Case ID 2019-17
        Patient ID P0017
        PID: 12345
        Pat.-Nr. 12345
        Patientennummer: 12345
        Patienten-ID 12345
        Fallnummer 4711123
        Fall-Nr.: 47111
        Aufnahmenummer 12345
        Auftragsnr. 12345
        IPP 123456
        IPP : 80012345
        n° de dossier 12345
        dossier n° 12345
        numéro de patient : 12345
        NHC 123456
        NHC: 12345
        n.º de historia clínica 12345
        Historia clínica: 12345
        expediente 12345
        folio no. 12345
        cartella clinica n. 12345
        cartella n. 12345
        numero pratica 12345
        prontuário 12345
        nº do prontuário: 12345
        patiëntnummer 12345
        dossiernummer: 12345
        住院号：123456
        病历号 A12345
        检查号:20190
        CT号：12345
        1.2.840.113619.2.55.3.604688119.971
        patient 12345678
        AB1234567
        ZQ_1234567
    """),
    "account and licence numbers": lines("""
        SSN 078-05-1120
        078-05-1120
        SSN: 078 05 1120
        social security no. 078051120
        Medicare 1EG4-TE5-MK72
        1EG4-TE5-MK72
        Medicaid ID: AB12345
        policy no. 123-456
        insurance ID XYZ12345
        Member # 12345
        account no. 12345
        acct: 12345
        IBAN DE89 3704 0044 0532 0130 00
        DE89370400440532013000
        4111 1111 1111 1111
        DNI 12345678Z
        DNI: 12.345.678-Z
        12345678Z
        NIE X1234567L
        NIR 1 85 05 78 006 084 36
        n° sécu 185057800608436
        n° de sécurité sociale 1 85 05 78 006 084
        AHV 756.1234.5678.97
        756.1234.5678.97
        CPF 123.456.789-09
        123.456.789-09
        Versichertennummer A123456789
        Versicherungsnr. 12 150385 K 004
        Personalausweis 123456
        codice fiscale RSSMRA85M01H501Z
        RSSMRA85M01H501Z
        tessera sanitaria 12345
        cartão SUS 123456
        BSN 123456782
        NHS number 943 476 5919
        943 476 5919
        身份证号：11010519491231002X
        11010519491231002X
        医保号 12345
        Passport no. X1234567
        passport X12345
        driver's license D1234567
        Driver's licence number 12345
        DEA AB1234563
        NPI 1234567893
        CRM 12345
        certificate number 12345
        Certificate No: AB-123
        serial number 12345
        Serial no. SN-1234
        S/N 12345AB
        SN: 12345
        device serial 4711A
        pacemaker serial number PJN123456
        implant ID 12345
        Seriennummer: 47110
        n° de série 47110
        número de serie 47110
        license plate 7ABC123
        Kennzeichen H-AB 1234
        plaque d'immatriculation AB-123-CD
        matrícula 1234 BCD
        targa AB123CD
        VIN 1HGCM82633A004352
        1HGCM82633A004352
        车牌 京A12345
    """),
    "names after titles": lines("""
        Dr. Kowalczyk
        Dr.\\nKowalczyk
        Dr.  Kowalczyk
        Dr.Kowalczyk
        DR KOWALCZYK
        DR. KOWALCZYK
        DR Kowalczyk
        dr. kowalczyk
        dr kowalczyk
        Dr. J. Kowalczyk
        Dr. van der Berg
        Dr. Łukasz
        Dr. Šimić
        Dr. Иванов
        Drs. Smith and Jones
        Mrs Smith
        MRS SMITH
        mrs. smith
        Mr. O'Neill
        Ms. Smith-Jones
        Prof. Dr. med. Müller
        PD Dr. Müller
        Professor Smith
        Doctor Smith
        Jane Smith, MD
        J. Smith M.D.
        Jane Smith, RN
        Jane Smith PA-C
        Nurse Smith
        Frau Müller
        Herrn Müller
        Hr. Müller
        Fr. Müller
        Oberarzt Müller
        Mme Dupont
        Mlle Dupont
        Monsieur Dupont
        docteur Dupont
        Pr Dupont
        Sra. García
        Señor García
        Srta. García
        Doña María
        doctora García
        Dra. García
        Sig. Rossi
        Sig.ra Rossi
        Dott. Rossi
        Dott.ssa Rossi
        dottor Rossi
        Sr. Silva
        Dhr. Jansen
        mevrouw Jansen
        Mw. de Vries
        王医生
        李主任
        张明医师
        Dr. 王
    """),
    "names after labels": lines("""
        Name: Kowalczyk
        Name : John Smith
        name: john smith
        NAME: JOHN SMITH
        Patient name: Kowalczyk
        Patient Name John Smith
        Pt: John Smith
        Pt name: Smith
        PATIENT: KOWALCZYK, EWA
        Patient: J. Smith
        Last name: Smith
        Surname = Smith
        maiden name: Smith
        Referring: Kowalczyk
        Referring physician: Kowalczyk
        Ref. by: Kowalczyk
        Referred by Kowalczyk
        Attending: Smith
        Radiologist: Ewa Kowalczyk
        Technologist: Smith
        Read by J. Kowalczyk
        Read by: Kowalczyk
        Reported by Jane Smith
        Electronically signed: Jane Smith 10:33
        Electronically signed by Smith
        Signed: Smith
        /s/ Jane Smith
        Dictated: Jane Smith
        Transcribed by Smith
        Verified by: Smith
        my name is Jane Smith
        a man named Kowalczyk
        a woman called Kowalczyk
        patient's mother, named Smith
        Mother: Jane Smith
        next of kin: Jane Smith
        Emergency contact: Jane Smith
        Case courtesy of Ewa Kowalczyk
        discussed with Jane Smith
        KOWALCZYK^EWA
        Kind regards, Jane Smith
        Nachname: Müller
        Vorname: Anna
        Patientin: Anna Müller
        Befundet von Müller
        gez. Müller
        Unterschrift: Müller
        Zuweiser: Müller
        elektronisch signiert von Müller
        Prénom : Jeanne
        Nom : Dupont
        nom de naissance : Dupont
        Signé par Dupont
        médecin traitant : Dupont
        Nombre: María
        Apellidos: García López
        Firmado por García
        Firmado: García
        médico solicitante: García
        informado por García
        Nome: Mario
        Cognome: Rossi
        Firmato da Rossi
        medico refertatore: Rossi
        Sobrenome: Silva
        Assinado por Silva
        Naam: Jansen
        Voornaam: Jan
        ondertekend door Jansen
        姓名：王小明
        患者姓名:王小明
        患者王小明，男
        报告医师：李四
        审核医生 王五
        签名：王明
        Name: 王小明
    """),
    "places of living": lines("""
        12 Elm Street
        12 elm street
        1600 Pennsylvania Ave
        4711 N. Main Road
        12 ELM STREET
        12 Oak Drive
        12 Elm St., Apt 4
        apt. 4B
        Springfield, IL 62704
        ZIP 02115
        zip code: 02115
        postcode SW1A 1AA
        SW1A 1AA
        K1A 0B1
        P.O. Box 123
        Hauptstraße 12
        Hauptstr. 12a
        Lange Straße 12
        Gartenweg 3
        PLZ 30625
        Postfach 1234
        12 rue de la Paix
        12 bis, rue Pasteur
        3, avenue Foch
        code postal 75001
        calle Mayor 12
        C/ Mayor, 12
        Avda. de la Paz 3
        código postal 28013
        via Roma 12
        Piazza Garibaldi, 3
        CAP 00184
        Rua Augusta, 123
        CEP 01310-100
        Kerkstraat 12
        postcode 1012 AB
        address: 12 Elm
        Anschrift: Am Markt 5
        中山路12号
        住址：上海市中山路
    """),
    "inside of brackets": lines("""
        [**Dr. John Smith, 617-555-1234**]
        [**John Smith**]
        [**Name: Kowalczyk**]
        [**617-555-1234**]
        [**Mrs Smith**]
        [**MRN 1234567**]
        [**jane@x.org**]
        [**12 Elm Street**]
    """),
}  # fmt: skip

BLIND = {
    "bare names": lines("""
        John Smith had a fall
        seen with Kowalczyk today
        SMITH, JOHN
    """),
    "places": lines("""
        lives in Springfield
        transferred from Hannover
    """),
    "months": lines("""
        in March 2019
        March 2019
    """),
    "other languages": lines("""
        5 maaliskuuta 2019
        syntynyt 1937
        lekarz: kowalski
    """),
    "short codes": lines("""
        K12345
        see 4711
    """),
}
"""Named by the guide as not seen."""
